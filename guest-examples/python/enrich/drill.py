"""Fails on request, in the ways that the tests of the host need: it is not part of the example."""

from wit_world.imports.types import Event


def drill(event: Event) -> None:
    if event.type != "drill":
        return
    match event.data:
        case b"trap":
            raise RuntimeError("a drill")
        case b"spin":
            while True:
                pass
        case b"hog":
            hoard = []
            while True:
                hoard.append(b"\1" * (1 << 20))
