"""An own schedule: where to spend the evaluations of a sample, and how near that comes to the exact solution.

python examples/own_schedule.py      # writes schedule.json, for flowar sample --schedule schedule.json
"""

from __future__ import annotations

from flowar import FlowARPipeline, Schedule
from flowar.sampling import times_denser_near_data, uniform_times


def main() -> None:
    pipe = FlowARPipeline.from_pretrained("flowar-fashion")  # scales of 1x1, 2x2, 4x4 and 7x7 tokens
    guidance = {"guidance_scale": 3.5, "guidance_growth": "cosine"}
    schedules = {
        "euler, 8 equal steps": Schedule(uniform_times(8), **guidance),
        "heun, 4 equal steps": Schedule(uniform_times(4), **guidance, solver="heun"),
        # Scales may differ: the coarse ones, which are cheap, get more steps.
        "dpm2m, fewer and fewer": Schedule(
            [times_denser_near_data(steps) for steps in (10, 8, 6, 4)], **guidance, solver="dpm2m"
        ),
    }
    exact = pipe([0, 3, 7], seed=0, schedule=Schedule(times_denser_near_data(64), **guidance, solver="dpm2m")).latents
    for name, schedule in schedules.items():
        distance = (pipe([0, 3, 7], seed=0, schedule=schedule).latents - exact).square().mean().sqrt()
        print(f"{name}: {schedule.num_evaluations(4)} evaluations, {distance:.3f} from the exact solution")

    own = schedules["dpm2m, fewer and fewer"]
    print(own.describe(4))
    own.save("schedule.json")


if __name__ == "__main__":
    main()
