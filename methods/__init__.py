"""The methods: --method NAME -> class.  A new method is one file, its options in options/methods.py, one line here."""

import importlib

METHODS = {
    "nice": "NICE:NICE",
    "cyclegan": "methods.cyclegan:CycleGAN",
    "ugatit": "methods.ugatit:UGATIT",
    "cut": "methods.cut:CUT",
    "fastcut": "methods.cut:FastCUT",
    "gcgan": "methods.gcgan:GcGAN",
    "distancegan": "methods.distancegan:DistanceGAN",
    "munit": "methods.munit:MUNIT",
    "unit": "methods.unit:UNIT",
    "drit": "methods.drit:DRIT",
    "sincut": "methods.sincut:SinCUT",
    "sincyclegan": "methods.sincyclegan:SinCycleGAN",
}


def load(name: str) -> type:
    """The class of a method, a subclass of Trainer."""
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def create(args, **more):
    """The trainer of args.method; args: a namespace from main.parse_args; more: as of Trainer."""
    return load(args.method)(args, **more)


def recogniser(method: str | None):
    """recognise, but a file of a method's authors is of this method if it can be: some have networks of one shape."""

    def of_method(found: dict) -> tuple[str, dict] | None:
        networks = load(method).from_released(found) if method and "args" not in found else None
        return recognise(found) if networks is None else (method, networks)

    return of_method


def recognise(found: dict) -> tuple[str, dict] | None:
    """(method, its networks by name and everything else in the checkpoint), or None if no method recognises it.

    found: the dict of a file, or {file name without suffix: its dict} of a folder.
    """
    said = found["args"].get("method", "nice") if isinstance(found.get("args"), dict) else None
    if said in METHODS and "metadata" in found:  # a model file, which names its method
        return said, found
    names = [*METHODS] if said is None else [said] if said in METHODS else []
    network = next(iter(found)).rpartition("_net_") if len(found) == 1 else ("",) * 3
    if network[0]:  # first the methods that have a network of that name: GcGAN's G_AB could be CycleGAN's G_A
        names.sort(key=lambda name: all(network[2] not in nets for nets in load(name).inference_networks.values()))
    for name in names:
        if (networks := load(name).from_released(found)) is not None:
            return name, networks
    return None
