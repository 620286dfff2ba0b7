"""brixel-run in this process, its report as values."""

from __future__ import annotations

import json

from brixel_edge.commands.run import main


def run_json(capsys, *arguments):
    code = main([*map(str, arguments), "--json", "--quiet"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err
