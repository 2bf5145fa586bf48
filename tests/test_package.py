import subprocess
import sys

import carclf


def test_every_public_name_is_there_and_documented():
    for name in carclf.__all__:
        assert getattr(carclf, name).__doc__, name


def test_reading_names_does_not_load_torch():
    code = "import sys, carclf; carclf.parse_brand('Audi_A4_1.jpg'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rooms_know_only_what_the_design_lets_them():
    forbidden = {
        "brands": ("torch", "PIL"),
        "photos": ("torch", "carclf.brands"),
        "manifest": ("torch",),
        "evaluation": ("torch",),
        "plots": ("torch",),
        "demo": ("torch", "carclf.brands", "carclf.photos"),
    }
    for room, others in forbidden.items():
        code = f"import sys, carclf.{room}; print(*[m for m in {others!r} if m in sys.modules])"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert output.strip() == "", f"{room} loads {output}"
