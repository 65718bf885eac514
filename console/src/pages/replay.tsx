// A recorded session, played: at any speed, from any place, or from a command that was typed.

import {
  Alert,
  Button,
  Group,
  SegmentedControl,
  Slider,
  Stack,
  Text,
  Title,
  UnstyledButton,
  useComputedColorScheme,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { Cast, Player } from "../parts/player";
import { terminal } from "../parts/terminal";
import { recording, session } from "../shells";

const SPEEDS = ["0.5", "1", "2", "4", "16"];

export default function Replay({ params }: { params: { id: string } }) {
  const { t } = useTranslation();
  const { id } = params;
  const about = useQuery({ queryKey: ["shell", id], queryFn: () => session(id) });
  const text = useQuery({
    queryKey: ["recording", id],
    queryFn: () => recording(id),
    gcTime: 0,
  });
  const cast = useMemo(() => {
    try {
      return text.data ? new Cast(text.data) : null;
    } catch {
      return null;
    }
  }, [text.data]);
  const fault = about.error ?? text.error;
  const one = about.data;

  return (
    <Stack gap="sm">
      <Title order={1} size="h3">
        {one ? `${one.account}: ${one.namespace}/${one.pod}` : t("replay")}
      </Title>
      {fault && <Alert color="red">{fault.message}</Alert>}
      {one && (
        <Text size="sm" c="dimmed">
          {new Date(one.began).toLocaleString()} · {one.container} {one.image} ·{" "}
          {one.ended > 0 ? one.ending : t("live")}
        </Text>
      )}
      {text.isPending && <Text>{t("loading")}</Text>}
      {text.data === "" && <Text>{t("empty")}</Text>}
      {cast && <Screen cast={cast} />}
    </Stack>
  );
}

function Screen({ cast }: { cast: Cast }) {
  const { t } = useTranslation();
  const dark = useComputedColorScheme("light") === "dark";
  const place = useRef<HTMLDivElement>(null);
  const player = useRef<Player | null>(null);
  const [at, setAt] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [speed, setSpeed] = useState("1");

  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const screen = terminal(element, dark, false);
    const made = new Player(cast, screen, () => {
      setAt(made.at);
      setPlaying(made.playing);
    });
    player.current = made;
    made.play();
    return () => {
      made.pause();
      screen.dispose();
    };
  }, [cast, dark]);

  return (
    <>
      <Group>
        <Button
          size="xs"
          onClick={() => (playing ? player.current?.pause() : player.current?.play())}
        >
          {playing ? t("pause") : t("play")}
        </Button>
        <SegmentedControl
          size="xs"
          aria-label={t("speed")}
          data={SPEEDS.map((value) => ({ value, label: `${value}×` }))}
          value={speed}
          onChange={(chosen) => {
            setSpeed(chosen);
            if (player.current) player.current.speed = Number(chosen);
          }}
        />
        <Text size="sm" ff="monospace">
          {clock(at)} / {clock(cast.length)}
        </Text>
      </Group>
      <Slider
        aria-label={t("position")}
        thumbLabel={t("position")}
        label={clock}
        min={0}
        max={Math.max(cast.length, 0.1)}
        step={0.1}
        value={at}
        onChange={(to) => player.current?.seek(to)}
      />
      <Group align="start" wrap="wrap">
        <div className="screen replay" ref={place} />
        {cast.marks.length > 0 && (
          <section aria-label={t("commands")}>
            <Title order={2} size="h4">
              {t("commands")}
            </Title>
            {cast.marks.map((mark, index) => (
              <UnstyledButton
                key={`${mark.at}/${index}`}
                className="mark"
                onClick={() => player.current?.seek(Math.max(0, mark.at - 0.5))}
              >
                {clock(mark.at)} <code>{mark.text}</code>
              </UnstyledButton>
            ))}
          </section>
        )}
      </Group>
    </>
  );
}

function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const two = (number: number) => String(number).padStart(2, "0");
  const hours = whole >= 3600 ? `${Math.floor(whole / 3600)}:` : "";
  return `${hours}${two(Math.floor((whole % 3600) / 60))}:${two(whole % 60)}`;
}
