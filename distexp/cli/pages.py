"""`python -m distexp.cli.pages`: docs/commands.md, made from the command tree."""

import inspect

import click

from distexp.cli.main import COMMAND, GROUPS, tree

HEAD = """\
# Commands

`distexp VERB`, `python -m distexp VERB` and `./launch_distributed.sh VERB` are the same. In a clone of this
project, `python experiment_manager.py` is `distexp manager`, and passes other verbs on;
`python experiment_runner_gpu.py` is `distexp worker`. Paths count from where you type.

Exit codes, where a verb says nothing else: 0 all well · 1 nothing matched, or the manager refuses · 2 wrong
words or files, or no manager answers.

To complete verbs and flags with the Tab key, put one line into your shell's start file: bash
`eval "$(_DISTEXP_COMPLETE=bash_source distexp)"`, zsh `eval "$(_DISTEXP_COMPLETE=zsh_source distexp)"`,
fish `_DISTEXP_COMPLETE=fish_source distexp | source`.

This page is made by `python -m distexp.cli.pages > docs/commands.md`.
"""


def commands_page() -> str:
    """Return the page."""
    parts = [HEAD]
    context = click.Context(tree, info_name=COMMAND)
    for group, verbs in GROUPS.items():
        parts.append(f"## {group}\n")
        for name in verbs:
            command = tree.get_command(context, name)
            assert command is not None
            parts += _verb(command, click.Context(command, parent=context, info_name=name))
    return "\n".join(parts)


def _verb(command: click.Command, context: click.Context) -> list[str]:
    words = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "").strip()
    parts = [f"### {' '.join(f'distexp {command.name} {words}'.split())}\n"]
    parts.append(f"{inspect.cleandoc(command.help or '')}\n")
    records = [
        record
        for parameter in command.get_params(context)
        if parameter.opts[0][0] == "-"
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
    ]
    if records:
        parts += ["| flag | meaning |", "|---|---|"]
        parts += [f"| `{flag.replace('|', ' or ')}` | {' '.join(text.split())} |" for flag, text in records]
        parts.append("")
    return parts


if __name__ == "__main__":
    print(commands_page(), end="")
