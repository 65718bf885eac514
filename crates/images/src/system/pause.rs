//! The program that holds a pod's namespaces, as machine code.
//!
//! It waits for signals: it reaps the children that a shared process namespace gives it, and ends
//! on SIGTERM and SIGINT. No compiler, linker or libc takes part, so the image is a few hundred
//! bytes and the same wherever it was built.
//!
//! ```text
//!       set = { SIGINT, SIGTERM, SIGCHLD }
//!       rt_sigprocmask(SIG_BLOCK, &set, 0, 8)      a blocked signal is kept, not ignored
//! wait: signal = rt_sigtimedwait(&set, 0, 0, 8)    no busy loop, nothing lost between two calls
//!       SIGCHLD → reap, SIGINT and SIGTERM → exit, else → wait
//! exit: exit(0)
//! reap: wait4(-1, 0, WNOHANG, 0) > 0 → reap, else → wait
//! ```

/// A set of signals has bit N-1 for signal N: 2, 15, 17.
const X86_64: &[u8] = &[
    0x68, 0x02, 0x40, 0x01, 0x00, //                   push 0x14002         the set
    0x48, 0x89, 0xe3, //                               mov  rbx, rsp
    0x31, 0xff, //                                     xor  edi, edi        SIG_BLOCK
    0x48, 0x89, 0xde, //                               mov  rsi, rbx
    0x31, 0xd2, //                                     xor  edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00, //             mov  r10d, 8         bytes of a set
    0xb8, 0x0e, 0x00, 0x00, 0x00, //                   mov  eax, 14         rt_sigprocmask
    0x0f, 0x05, //                                     syscall
    // wait:
    0x48, 0x89, 0xdf, //                               mov  rdi, rbx
    0x31, 0xf6, //                                     xor  esi, esi
    0x31, 0xd2, //                                     xor  edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00, //             mov  r10d, 8
    0xb8, 0x80, 0x00, 0x00, 0x00, //                   mov  eax, 128        rt_sigtimedwait
    0x0f, 0x05, //                                     syscall
    0x83, 0xf8, 0x11, //                               cmp  eax, 17         SIGCHLD
    0x74, 0x13, //                                     je   reap
    0x83, 0xf8, 0x02, //                               cmp  eax, 2          SIGINT
    0x74, 0x05, //                                     je   exit
    0x83, 0xf8, 0x0f, //                               cmp  eax, 15         SIGTERM
    0x75, 0xdd, //                                     jne  wait
    // exit:
    0x31, 0xff, //                                     xor  edi, edi
    0xb8, 0x3c, 0x00, 0x00, 0x00, //                   mov  eax, 60         exit
    0x0f, 0x05, //                                     syscall
    // reap:
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, //       mov  rdi, -1
    0x31, 0xf6, //                                     xor  esi, esi
    0xba, 0x01, 0x00, 0x00, 0x00, //                   mov  edx, 1          WNOHANG
    0x45, 0x31, 0xd2, //                               xor  r10d, r10d
    0xb8, 0x3d, 0x00, 0x00, 0x00, //                   mov  eax, 61         wait4
    0x0f, 0x05, //                                     syscall
    0x85, 0xc0, //                                     test eax, eax
    0x7f, 0xe4, //                                     jg   reap
    0xeb, 0xb6, //                                     jmp  wait
];

/// The same for 64-bit ARM, an instruction a word.
const AARCH64: &[u32] = &[
    0xd288_0040, // mov  x0, #0x4002
    0xf2a0_0020, // movk x0, #1, lsl #16     the set
    0xf81f_0fe0, // str  x0, [sp, #-16]!
    0x9100_03f3, // mov  x19, sp
    0xd280_0000, // mov  x0, #0              SIG_BLOCK
    0xaa13_03e1, // mov  x1, x19
    0xd280_0002, // mov  x2, #0
    0xd280_0103, // mov  x3, #8              bytes of a set
    0xd280_10e8, // mov  x8, #135            rt_sigprocmask
    0xd400_0001, // svc  #0
    // wait:
    0xaa13_03e0, // mov  x0, x19
    0xd280_0001, // mov  x1, #0
    0xd280_0002, // mov  x2, #0
    0xd280_0103, // mov  x3, #8
    0xd280_1128, // mov  x8, #137            rt_sigtimedwait
    0xd400_0001, // svc  #0
    0xf100_441f, // cmp  x0, #17             SIGCHLD
    0x5400_0100, // b.eq reap
    0xf100_081f, // cmp  x0, #2              SIGINT
    0x5400_0060, // b.eq exit
    0xf100_3c1f, // cmp  x0, #15             SIGTERM
    0x54ff_fea1, // b.ne wait
    // exit:
    0xd280_0000, // mov  x0, #0
    0xd280_0ba8, // mov  x8, #93             exit
    0xd400_0001, // svc  #0
    // reap:
    0x9280_0000, // mov  x0, #-1
    0xd280_0001, // mov  x1, #0
    0xd280_0022, // mov  x2, #1              WNOHANG
    0xd280_0003, // mov  x3, #0
    0xd280_2088, // mov  x8, #260            wait4
    0xd400_0001, // svc  #0
    0xf100_001f, // cmp  x0, #0
    0x54ff_ff2c, // b.gt reap
    0x17ff_ffe9, // b    wait
];

/// ELF's numbers for the two processors.
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
/// Where static programs are linked to by custom; a multiple of every page size in use.
const ADDRESS: u64 = 0x40_0000;
const HEADER: u16 = 64;
const SEGMENT: u16 = 56;
/// Segments: the file itself, readable and executable; the stack, not executable.
const SEGMENTS: u16 = 2;

/// The program for one of Go's words for a processor; none for one that it is not written for.
pub(super) fn program(architecture: &str) -> Option<Vec<u8>> {
    match architecture {
        "amd64" => Some(elf(EM_X86_64, X86_64)),
        "arm64" => {
            let code: Vec<u8> = AARCH64.iter().flat_map(|word| word.to_le_bytes()).collect();
            Some(elf(EM_AARCH64, &code))
        }
        _ => None,
    }
}

/// A static executable that is nothing but `code`.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let start = u64::from(HEADER + SEGMENTS * SEGMENT);
    let size = start + code.len() as u64;
    let mut file = Vec::new();
    // 64 bits, little-endian, version 1, System V.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
    half(&mut file, 2); // an executable
    half(&mut file, machine);
    word(&mut file, 1); // version
    long(&mut file, ADDRESS + start); // entry
    long(&mut file, u64::from(HEADER)); // segments follow the header
    long(&mut file, 0); // no sections
    word(&mut file, 0); // no flags
    half(&mut file, HEADER);
    half(&mut file, SEGMENT);
    half(&mut file, SEGMENTS);
    half(&mut file, 64); // size of a section's header, had it any
    half(&mut file, 0);
    half(&mut file, 0);
    // PT_LOAD, readable and executable; PT_GNU_STACK, readable and writable.
    let segments = [(1, 5, ADDRESS, size, 0x1000), (0x6474_e551, 6, 0, 0, 16)];
    for (kind, flags, address, size, align) in segments {
        word(&mut file, kind);
        word(&mut file, flags);
        long(&mut file, 0); // offset
        long(&mut file, address);
        long(&mut file, address);
        long(&mut file, size);
        long(&mut file, size);
        long(&mut file, align);
    }
    file.extend_from_slice(code);
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::elf::Elf;
    use crate::manifest::architecture;

    #[test]
    fn both_programs_are_static_executables() {
        for (name, machine, code) in [("amd64", 62, 102), ("arm64", 183, 136)] {
            let program = program(name).expect("it is written for it");
            let elf = Elf::parse(&program).expect("it is ELF");
            assert_eq!(elf.interpreter(), None);
            assert_eq!(program[18], machine);
            assert_eq!(program.len(), 176 + code);
        }
        assert!(program("riscv64").is_none());
    }

    fn start() -> (tempfile::TempDir, Child) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let path = dir.path().join("pause");
        let program = program(architecture()).expect("it is written for this machine");
        std::fs::write(&path, program).expect("it is written");
        let permissions = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, permissions).expect("they are set");
        let child = Command::new(&path).spawn().expect("it starts");
        (dir, child)
    }

    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The state letter and the blocked signals of a process.
    fn status(child: &Child) -> String {
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default()
    }

    fn signal(child: &Child, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    #[test]
    fn it_sleeps_and_ends_on_sigterm_and_sigint() {
        for name in ["TERM", "INT"] {
            let (_dir, mut child) = start();
            wait_until("it waits", || status(&child).contains("State:\tS"));
            signal(&child, "CHLD");
            signal(&child, name);
            wait_until("it ends", || child.try_wait().expect("it can be asked").is_some());
            let status = child.wait().expect("it has ended");
            assert_eq!((status.code(), status.signal()), (Some(0), None), "on {name}");
        }
    }

    /// As process 1 of its own namespace it must reap what it is given.
    #[test]
    fn it_reaps_orphans_in_its_own_namespace() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let path = dir.path().join("pause");
        let program = program(architecture()).expect("it is written for this machine");
        std::fs::write(&path, program).expect("it is written");
        let permissions = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, permissions).expect("they are set");
        // The shell leaves an orphan behind and becomes the program.
        let script = format!("(sleep 0.2 & ) ; exec {}", path.display());
        let child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", &script])
            .spawn();
        let mut child = child.expect("unshare starts");
        let children = |of: u32| {
            let path = format!("/proc/{of}/task/{of}/children");
            let list = std::fs::read_to_string(path).unwrap_or_default();
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        };
        let mut inner = None;
        wait_until("the program starts, or unshare is not allowed", || {
            let found = children(child.id()).into_iter().find(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|comm| comm.trim() == "pause")
            });
            inner = found;
            found.is_some() || child.try_wait().expect("it can be asked").is_some()
        });
        let Some(inner) = inner else {
            assert!(std::env::var_os("CI").is_none(), "a process namespace needs root");
            eprintln!("skipped: a process namespace needs root");
            return;
        };
        wait_until("the orphan is reaped", || children(inner).is_empty());
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
    }
}
