"""Record the sample dataset: a simulated Sawyer arm at four Meta-World tasks, LeRobotDataset v3.0.

A scripted policy tries the task, with correlated noise or a misplaced target for most episodes.
After success, when stuck, or after 35 frames, the arm plays: it moves between random waypoints, so
that every episode moves to its end. Ten frames a second; an action is held for 8 simulator steps.
Needs `pip install metaworld==3.1.1 mujoco==3.3.0 packaging` and libosmesa6 (or libegl1 libgl1).

    MUJOCO_GL=osmesa LP_NUM_THREADS=0 python -m tools.make_sample --output assets/sample
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from vidwm.data.lerobot_writer import LeRobotWriter
from vidwm.errors import UserError

FPS = 10
FRAMES = 50
HOLD = 8  # simulator steps of 1/80 s per action
EXPERT_FRAMES = 35  # the attempt ends here without success
STUCK_METRES = 0.015  # it also ends if the hand stays within this box for four frames
LINGER_FRAMES = 2  # the attempt goes on this long after success
GAIN = 10.0  # per metre; one held action moves the hand 8 cm, so 12.5 would be dead beat
NOISE_MEMORY = 0.7
RENDER_SIZE = 256
TASKS = {
    "reach": "Reach the red ball with the gripper",
    "push": "Push the red puck to the green ball",
    "drawer-open": "Open the drawer of the green box",
    "button-press-topdown": "Press the red button from above",
}
QUALITIES = ("expert", "noise-0.1", "noise-0.25", "noise-0.5", "bias-0.02", "bias-0.04")
# Waypoints of play, in metres; the furniture of the last two tasks is kept out of the way.
PLAY_BOX = {
    "reach": ((-0.3, 0.45, 0.08), (0.3, 0.8, 0.3)),
    "push": ((-0.3, 0.45, 0.08), (0.3, 0.8, 0.3)),
    "drawer-open": ((-0.3, 0.42, 0.17), (0.3, 0.72, 0.33)),
    "button-press-topdown": ((-0.3, 0.42, 0.08), (0.3, 0.62, 0.33)),
}
ACTION_NAMES = ("dx", "dy", "dz", "gripper")
STATE_NAMES = (
    *("hand_x", "hand_y", "hand_z", "gripper_opening"),
    *("object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z"),
)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """frames (T, S, S, 3) uint8; actions (T, 4) float32 in [-1, 1]; states (T, 10) float32."""

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    task: str
    quality: str
    success: bool


class Simulator:
    """One Meta-World task with its camera; `close` is not needed, it lives as long as its process.

    Renderers of several tasks stay alive side by side: under osmesa, replacing one that is still
    open returns frames of the wrong scene.
    """

    def __init__(self, task: str) -> None:
        self.env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        # Metaworld draws object and goal places only through these; reset(seed=) is ignored.
        self.env.seeded_rand_vec = True
        self.env._freeze_rand_vec = False
        self.env._set_task_called = True
        self.env._partially_observable = False
        self.env.model.vis.quality.offsamples = 0
        self.renderer = mujoco.Renderer(self.env.model, RENDER_SIZE, RENDER_SIZE)
        self.camera = mujoco.MjvCamera()
        self.camera.lookat[:] = (0, 0.68, 0.12)
        self.camera.distance, self.camera.azimuth, self.camera.elevation = 1.1, 160, -35

    def reset(self, seed: int) -> np.ndarray:
        """(10,) named by STATE_NAMES: hand, gripper opening, object and goal at the start."""
        self.env.seed(seed)
        self.env.reset()
        # Metaworld places cabinet and goal marker last, and moves what is drawn and observed only
        # at the next step; without this they would jump between the first two frames.
        mujoco.mj_kinematics(self.env.model, self.env.data)
        return self._state(self.env._get_obs())

    def _state(self, observation: np.ndarray) -> np.ndarray:
        # From the second observation on, Metaworld clips the goal in it to zero.
        return np.concatenate([observation[:7], self.env._target_pos])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """Hold an action for a tenth of a second -> (state (10,), task succeeded)."""
        success = False
        for _ in range(HOLD):
            observation, _, _, _, info = self.env.step(action)
            success |= bool(info["success"])
        return self._state(observation), success

    def render(self, size: int) -> np.ndarray:
        """(size, size, 3) uint8, averaged down from 256: a tenth of the time of multisampling."""
        self.renderer.update_scene(self.env.data, self.camera)
        flags = self.renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        k = RENDER_SIZE // size
        blocks = self.renderer.render().reshape(size, k, size, k, 3).astype(np.float32)
        return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


@lru_cache(maxsize=len(TASKS))
def simulator(task: str) -> Simulator:
    return Simulator(task)


def expert_target(task: str, state: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the hand should go now (3,) in metres, and the gripper command (-1 open, 1 closed).

    The stages of Meta-World's own scripted policies; `bias` (3,) misplaces object and goal.
    """
    hand, thing, goal = state[:3], state[4:7] + bias, state[7:] + bias
    if task == "reach":
        return goal, -1.0
    if task == "push":
        thing[0] -= 0.005
        aside, height = np.linalg.norm(hand[:2] - thing[:2]), abs(hand[2] - thing[2])
        if aside > 0.02:
            return above(thing, 0.2 if aside > 0.06 else 0.1), -1.0
        if height > 0.04:
            return above(thing, 0.03), 0.6 if height < 0.1 else -1.0
        return goal, 0.6
    aside = np.linalg.norm(hand[:2] - thing[:2])
    if task == "drawer-open":
        handle = above(thing, -0.02)
        if aside > 0.06:
            return above(handle, 0.2), -1.0
        if abs(hand[2] - handle[2]) > 0.04:
            return handle, -1.0
        return handle - np.array((0, 0.06, 0)), -1.0
    return above(thing, 0.1 if aside > 0.04 else -0.02), 1.0


def above(point: np.ndarray, metres: float) -> np.ndarray:
    return point + np.array((0, 0, metres))


class Play:
    """Straight moves between random waypoints, each with its own speed and gripper command."""

    def __init__(self, task: str, rng: np.random.Generator, hand: np.ndarray) -> None:
        self.low, self.high = np.array(PLAY_BOX[task])
        self.rng = rng
        self._draw(hand)
        # Up and away first, so that the hand lets go of whatever it was at.
        self.waypoint = np.append(np.clip(hand[:2], self.low[:2], self.high[:2]), self.high[2])

    def _draw(self, hand: np.ndarray) -> None:
        self.waypoint = self.rng.uniform(self.low, self.high)
        while np.abs(self.waypoint - hand).max() < 0.2:
            self.waypoint = self.rng.uniform(self.low, self.high)
        self.speed = self.rng.uniform(0.35, 0.8)
        self.gripper = self.rng.choice((-1.0, 1.0))

    def target(self, hand: np.ndarray) -> tuple[np.ndarray, float]:
        if np.abs(self.waypoint - hand).max() < 0.05:
            self._draw(hand)
        return self.waypoint, self.gripper


def towards(target: np.ndarray, hand: np.ndarray, speed: float) -> np.ndarray:
    """Straight move (3,) at `speed` (share of full), slowing only where it would overshoot."""
    error = target - hand
    reach = np.abs(error).max()
    return error / (reach + 1e-9) * min(speed, GAIN * reach)


def record(index: int, *, seed: int, size: int) -> Recording:
    """Episode `index`: its task, quality and every random draw depend on (seed, index) alone."""
    task = tuple(TASKS)[index % len(TASKS)]
    quality = QUALITIES[index // len(TASKS) % len(QUALITIES)]
    family, _, amount = quality.partition("-")
    rng = np.random.default_rng((seed, index))
    sim = simulator(task)
    state = sim.reset(int(rng.integers(2**31)))
    speed = rng.uniform(0.35, 0.8)
    bias = rng.normal(0, float(amount), 3) if family == "bias" else np.zeros(3)
    sigma = float(amount) if family == "noise" else 0.0
    noise = rng.normal(0, 1, 3)
    play, success, play_from = None, False, EXPERT_FRAMES
    frames: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    states: list[np.ndarray] = []
    for t in range(FRAMES):
        hand = state[:3]
        recent = [past[:3] for past in states[-3:]]
        stuck = t >= 4 and np.ptp([*recent, hand], axis=0).max() < STUCK_METRES
        if play is None and (t >= play_from or stuck):
            play = Play(task, rng, hand)
        target, gripper = play.target(hand) if play else expert_target(task, state, bias)
        xyz = towards(target, hand, play.speed if play else speed) + sigma * noise
        noise = NOISE_MEMORY * noise + np.sqrt(1 - NOISE_MEMORY**2) * rng.normal(0, 1, 3)
        actions.append(np.clip([*xyz, gripper], -1, 1).astype(np.float32))
        frames.append(sim.render(size))
        states.append(state.astype(np.float32))
        state, reached = sim.step(actions[-1])
        if reached and not success and play is None:
            success, play_from = True, min(play_from, t + 1 + LINGER_FRAMES)
    return Recording(
        frames=np.stack(frames),
        actions=np.stack(actions),
        states=np.stack(states),
        task=TASKS[task],
        quality=quality,
        success=success,
    )


def recordings(args: argparse.Namespace) -> Iterator[Recording]:
    """All episodes in order, simulated by `args.workers` processes."""
    one = partial(record, seed=args.seed, size=args.size)
    if args.workers == 1:
        yield from map(one, range(args.episodes))
        return
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        yield from pool.imap(one, range(args.episodes))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="pixels; must divide 256")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes")
    parser.add_argument("--crf", type=int, default=17, help="H.264 quality, 0 (lossless) to 51")
    args = parser.parse_args()
    if args.size < 16 or RENDER_SIZE % args.size:
        parser.error(f"--size {args.size} must divide {RENDER_SIZE} and be at least 16")
    if args.episodes < 1 or args.workers < 1:
        parser.error("--episodes and --workers must be at least 1")
    return args


def main() -> None:
    args = parse_args()
    start = time.monotonic()
    try:
        with LeRobotWriter(
            args.output,
            fps=FPS,
            robot_type="sawyer",
            action_names=ACTION_NAMES,
            state_names=STATE_NAMES,
            crf=args.crf,
        ) as writer:
            for number, episode in enumerate(recordings(args), 1):
                writer.add_episode(
                    frames=episode.frames,
                    actions=episode.actions,
                    states=episode.states,
                    task=episode.task,
                    extra={"quality": episode.quality, "success": episode.success},
                )
                print(f"\r{number}/{args.episodes} episodes", end="", file=sys.stderr, flush=True)
    except UserError as error:
        sys.exit(f"make_sample: error: {error}")
    size = sum(f.stat().st_size for f in args.output.rglob("*") if f.is_file())
    print(f"\n{args.output}: {size / 1e6:.2f} MB in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
