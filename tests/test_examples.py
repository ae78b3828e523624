"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_script_studies_a_network_of_ones_own_to_its_page(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "own_encoder.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kept  mine:backbone" in done.stdout
    page = Path(done.stdout.partition("report: ")[2].splitlines()[0])
    assert "What my network knows" in page.read_text()
