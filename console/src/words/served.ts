// Words that come from the server, in the person's language: what is not known here stays as it is.

import i18next from "i18next";
import { useCallback } from "react";
import { useTranslation } from "react-i18next";

type Sort = "columns" | "states" | "steps" | "refusals";

const ZH: Record<Exclude<Sort, "refusals">, Record<string, string>> = {
  columns: {
    Name: "名称",
    Namespace: "命名空间",
    Age: "时长",
    App: "应用",
    Image: "镜像",
    Images: "镜像",
    Strategy: "策略",
    Phase: "阶段",
    Step: "步骤",
    Message: "消息",
    Author: "作者",
    Cause: "原因",
    Ready: "就绪",
    Status: "状态",
    Restarts: "重启",
    URL: "地址",
    Type: "类型",
    Reason: "原因",
    Object: "对象",
    "Last Seen": "最近出现",
    Roles: "角色",
    Version: "版本",
    "Up-to-date": "已更新",
    Available: "可用",
    Desired: "期望",
    Current: "当前",
    Completions: "完成数",
    Duration: "用时",
    Schedule: "计划",
    Timezone: "时区",
    Suspend: "暂停",
    Active: "运行中",
    "Last Schedule": "上次运行",
    Data: "数据项",
    "Cluster-IP": "集群 IP",
    "External-IP": "外部 IP",
    "Port(s)": "端口",
    Ports: "端口",
    Hosts: "主机名",
    Address: "地址",
    Class: "类",
    Endpoints: "端点",
    Capacity: "容量",
    "Access Modes": "访问模式",
    StorageClass: "存储类",
    Volume: "卷",
    Holder: "持有者",
    Reference: "对象",
    Targets: "目标",
    MinPods: "最少",
    MaxPods: "最多",
    Replicas: "副本数",
    Secrets: "密钥",
    "Created At": "创建于",
  },
  states: {
    Waiting: "等待中",
    Progressing: "进行中",
    Paused: "已暂停",
    Aborting: "正在撤回",
    Aborted: "已撤回",
    Succeeded: "成功",
    Superseded: "已被取代",
    Running: "运行中",
    Pending: "等待调度",
    Completed: "已完成",
    Complete: "已完成",
    Failed: "失败",
    Terminating: "正在终止",
    Unknown: "未知",
    ContainerCreating: "正在创建容器",
    PodInitializing: "正在初始化",
    CrashLoopBackOff: "反复崩溃",
    ImagePullBackOff: "镜像拉取失败",
    ErrImagePull: "镜像拉取失败",
    ErrImageNeverPull: "本地没有镜像",
    InvalidImageName: "镜像名无效",
    CreateContainerConfigError: "容器配置错误",
    CreateContainerError: "无法创建容器",
    RunContainerError: "无法启动容器",
    Unschedulable: "无法调度",
    OOMKilled: "内存不足被终止",
    Error: "出错",
    Evicted: "已被驱逐",
    Ready: "就绪",
    NotReady: "未就绪",
    SchedulingDisabled: "已停止调度",
    Active: "正常",
    Bound: "已绑定",
    Available: "可用",
    Lost: "已丢失",
    Normal: "正常",
    Warning: "警告",
    MemoryPressure: "内存压力",
    DiskPressure: "磁盘压力",
    PIDPressure: "进程数压力",
    NetworkUnavailable: "网络不可用",
    True: "是",
    False: "否",
  },
  steps: {
    reserve: "预留资源",
    roll: "滚动",
    canary: "金丝雀",
    preview: "预览",
    switch: "切换",
    keep: "保留",
    swap: "原地替换",
    finish: "完成",
    rolling: "滚动发布",
    blueGreen: "蓝绿发布",
    inPlace: "原地升级",
    keepAddress: "保留地址",
    success: "成功率",
    latency: "延迟",
  },
};

/** Sentences of ours and of Kubernetes', with what is in them. */
const REFUSALS: [RegExp, string][] = [
  [/^name or password is wrong$/, "用户名或密码错误"],
  [/^needs the verb (\S+) on (\S+) of (\S+)$/, "需要 $3 的 $2 的 $1 权限"],
  [/^the password that you have is another one$/, "当前密码不正确"],
  [/^a password has 12 to 256 bytes$/, "密码须为 12 到 256 字节"],
  [/^too many wrong passwords; try again in (\d+) s$/, "密码错误次数过多，请在 $1 秒后重试"],
  [/^nobody does this to themselves; .*$/, "不能对自己执行此操作；请在自己的页面更改密码"],
  [
    /^the account has more than you: needs impersonate on (\S+) (\S+)$/,
    "该帐号权限高于你：需要对 $1 $2 的 impersonate 权限",
  ],
  [/^(\S+) may not list (.+)$/, "$1 无权列出 $2"],
  [/^too many different tables are open$/, "打开的不同列表太多"],
  [/^the API server did not answer within 60 s$/, "API 服务器 60 秒内没有应答"],
  [/^a body has at most 3 MiB$/, "请求内容不能超过 3 MiB"],
  [/^(\S+) "([^"]+)" not found$/, "找不到 $1 “$2”"],
  [/^(\S+) "([^"]+)" already exists$/, "$1 “$2” 已存在"],
  [
    /^(\S+) (?:"([^"]*)" )?is forbidden: User "([^"]+)" cannot (\S+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]+)"| at the cluster scope)?.*$/s,
    "禁止：用户 “$3” 不能对资源 “$5” 执行 $4（命名空间 “$7”）",
  ],
  [
    /^Operation cannot be fulfilled on (\S+) "([^"]+)": the object has been modified.*$/s,
    "$1 “$2” 已被他人修改，请基于最新版本重试",
  ],
];

/** Says what the server said: a column's name, a state or phase, a kind of step, a refusal. */
export function useServed(): (sort: Sort, text: string) => string {
  const { i18n } = useTranslation();
  const chinese = i18n.language === "zh";
  return useCallback(
    (sort: Sort, text: string) => (chinese ? translated(sort, text) : text),
    [chinese],
  );
}

/** What the server refuses, as it is when it comes. */
export function refusal(text: string): string {
  return i18next.language === "zh" ? translated("refusals", text) : text;
}

function translated(sort: Sort, text: string): string {
  if (sort === "refusals") {
    const found = REFUSALS.find(([form]) => form.test(text));
    return found ? text.replace(found[0], found[1]).replace("（命名空间 “”）", "") : text;
  }
  const words = ZH[sort];
  if (words[text] !== undefined) return words[text];
  // `Ready,SchedulingDisabled`, `Init:Error`.
  const parts = text.split(/([,:])/);
  return parts.map((part) => words[part] ?? part).join("");
}
