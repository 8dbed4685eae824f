"""`demo`: hands its options to cdc_tracker.demo."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Run the whole thing against a database of its own, with crashes."""
    from cdc_tracker.demo.command import main  # noqa: PLC0415  its server is an extra that need not be installed

    raise SystemExit(main(list(arguments)))
