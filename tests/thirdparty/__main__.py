"""Make the environment, and run `tests.thirdparty.run` in it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENT = ROOT / ".cache" / "thirdparty"
REQUIREMENTS = HERE / "requirements.txt"

python = ENVIRONMENT / "bin" / "python"
stamp = ENVIRONMENT / ".installed"
if not stamp.exists() or stamp.stat().st_mtime < REQUIREMENTS.stat().st_mtime:
    print(f"installing into {ENVIRONMENT} ...", flush=True)
    venv.create(ENVIRONMENT, with_pip=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--upgrade", "-r", REQUIREMENTS], check=True)
    # It is compiled, and needs the headers of the client library.
    if subprocess.run([*install, "mysqlclient"], capture_output=True).returncode:
        print("mysqlclient could not be installed; it will be skipped")
    stamp.touch()
os.chdir(ROOT)
os.execv(python, [str(python), "-W", "ignore", "-m", "tests.thirdparty.run", *sys.argv[1:]])
