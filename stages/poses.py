"""Stage `poses`: whether the pose clusters of the rounds are poses."""

from pathlib import Path

from uld.artifacts.files import finite, write_json, write_table
from uld.base import params, stop
from uld.evaluate.poses import of_rounds


def main() -> None:
    """Write metrics/poses.json and plots/poses.csv."""
    rounds = {name: block["step"] for name, block in params.read(dict[str, dict[str, str]], "rounds").items()}
    tree, lines = of_rounds(rounds)
    if not tree:
        print("No round has pose clusters, or no training image a known yaw: there is nothing to compare.")
    write_json(Path("metrics/poses.json"), finite(tree))
    write_table(Path("plots/poses.csv"), lines)


if __name__ == "__main__":
    stop.run(main)
