"""Which of a bundle's plans is taken on this device, and what is told where none is.

The device and TensorRT are the stand-ins of ``host_device.py``; no GPU takes part.
"""

import importlib.util

import msgspec
import pytest

import edgekit
from edgekit.bundle import open_bundle
from edgekit.errors import BackendError, BundleFormatError, EdgeKitError, MissingPackageError
from edgekit.runtime.backends.trt.library import FULL
from edgekit.runtime.backends.trt.loading import load_components
from edgekit.runtime.backends.trt.plans import PlanStore
from tests.runtime.backends.conftest import CONTEXT
from tests.runtime.backends.host_device import HostDevice, publish, tensorrt


@pytest.fixture
def load(bundle):
    """Return a function that loads the backbone on the stand-in, where a cache of another length may be asked for."""
    device = HostDevice()
    library = tensorrt(device)

    def backbone(context_tokens=CONTEXT):
        return load_components(
            bundle, ["backbone"], FULL, context_tokens, library=library, device=device
        )["backbone"]  # fmt: skip

    backbone.library, backbone.device = library, device
    return backbone


def test_without_plans_the_command_that_builds_them_is_told(load, bundle):
    command = rf"run `edgekit build {bundle.folder} --target jetson-orin`$"
    with pytest.raises(BackendError, match=r"^backbone: no plan of it is there \(.*\.plans\); " + command):
        load()
    assert load.library.taken == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "10.13.0"}, "for another TensorRT, 10.13.0, here is 10.3.0 ("),
        ({"device": "11.0"}, "for another device, compute capability 11.0, here is 8.7 ("),
        ({"builder": "tensorrt-rtx"}, "for another backend, tensorrt-rtx ("),
        ({"graph": "another"}, "of another export ("),
        ({"version": "10.13.0", "device": "11.0"}, "here is 10.3.0 and its plan is for another device"),
    ],
)
def test_a_plan_of_something_else_is_told_apart_and_never_deserialised(load, bundle, changes, said):
    publish(bundle, load.library, **changes)
    with pytest.raises(BackendError) as refused:
        load()
    assert said in str(refused.value)
    assert load.library.taken == []


def test_a_cache_of_another_length_wants_a_plan_of_its_own(load, bundle):
    publish(bundle, load.library, CONTEXT - 1)
    with pytest.raises(BackendError, match=r"other sizes, such as another length of the cache \(--context-tokens\)"):
        load()
    assert load(CONTEXT - 1)
    publish(bundle, load.library)
    assert load()


def test_the_nearest_of_many_plans_is_the_one_that_is_told_of(load, bundle):
    publish(bundle, load.library, version="10.13.0", device="11.0")
    publish(bundle, load.library, version="10.14.0")
    with pytest.raises(BackendError, match=r"another TensorRT, 10\.14\.0, here is 10\.3\.0 \("):
        load()


@pytest.mark.parametrize("at", [0, 20])
def test_a_damaged_plan_is_never_deserialised(load, bundle, at):
    store = publish(bundle, load.library)
    (path,) = store.folder.glob("backbone-*.plan")
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(BackendError, match=r"damaged, its bytes are not what was built; build it again"):
        load()
    assert load.library.taken == []


def test_a_bundle_beyond_the_device_s_memory_is_refused_before_a_plan_is_read(load, bundle):
    publish(bundle, load.library)
    load.device.left_mib = 0.0
    with pytest.raises(BackendError, match=r"loading it takes at least .*, the GPU has 0 MiB available; end other"):
        load()
    assert load.library.taken == []
    load.device.left_mib = 1.0  # of which the small bundle takes a few hundred bytes
    assert load()


def test_files_that_are_no_plans_are_passed_over(load, bundle):
    store = publish(bundle, load.library)
    whole = next(store.folder.glob("backbone-*.plan")).read_bytes()
    end = b"\nedgekit plan 3 %08d " + b"0" * 64 + b"\n"
    before = b"\nedgekit plan 2 %08d\n"
    ends = (b"", end % 0, b"{}" + end % 2, end % 99999, b"{" * 99999, before % 0, b"{}" + before % 2, whole[-90:])
    for number, content in enumerate(ends):
        (store.folder / f"backbone-{number}.plan").write_bytes(content)
    assert load()


def test_a_runtime_that_does_not_come_up_is_not_used(load, bundle):
    publish(bundle, load.library)

    class Nothing:
        def __init__(self, logger):
            logger.log(1, "CUDA initialization failure with error: 35")

    load.library.Runtime = Nothing
    with pytest.raises(BackendError, match=r"^tensorrt: no runtime comes up \(CUDA initialization failure .*: 35\); "):
        load()


def test_a_plan_that_tensorrt_does_not_take_is_told_in_its_words(load, bundle):
    store = publish(bundle, load.library)
    note = store.notes("backbone")[0]
    import hashlib

    plan = b"no plan"
    changed = msgspec.structs.replace(note, sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan))
    with store.draft("backbone") as draft:
        draft.write(plan)
        draft.publish(changed)
    with pytest.raises(BackendError, match=r"TensorRT does not take it \(magic tag does not match\); build it again"):
        load()


def test_a_plan_with_other_inputs_than_the_manifest_is_refused(load, bundle):
    publish(bundle, load.library)
    component = bundle.manifest.components["backbone"]
    for spec, said in (
        ({"name": "embed"}, "'embed"),
        ({"dtype": "float16"}, "is float32 in its plan, float16 in the manifest"),
    ):
        inputs = (msgspec.structs.replace(component.inputs[0], **spec), *component.inputs[1:])
        changed = msgspec.structs.replace(component, inputs=inputs)
        components = bundle.manifest.components | {"backbone": changed}
        odd = msgspec.structs.replace(bundle.manifest, components=components)
        device = HostDevice()
        opened = type(bundle)(bundle.folder, odd)
        library = tensorrt(device)
        # the plan's bounds go by the names of inputs, so that the key is another one: written for this manifest
        publish(opened, library)
        with pytest.raises(BackendError) as refused:
            load_components(opened, ["backbone"], FULL, CONTEXT, library=library, device=device)
        assert said in str(refused.value)


def test_state_in_place_is_refused(tiny_bundle):
    opened = open_bundle(tiny_bundle(dialect="standard").folder)
    device = HostDevice()
    library = tensorrt(device)
    publish(opened, library)
    with pytest.raises(BundleFormatError, match=r"state '.*' is in-place, which TensorRT cannot; export it again"):
        load_components(
            opened, ["backbone"], FULL, opened.manifest.protocol.context_tokens, library=library, device=device
        )
    with pytest.raises(BundleFormatError, match=r"no component 'decoder', it has adapter, backbone, encoder"):
        load_components(opened, ["decoder"], FULL, 8, library=library, device=device)


@pytest.mark.parametrize(("backend", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_library_that_is_not_there_is_told_before_anything_else(backend, module, tiny_bundle):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed here")
    folder = tiny_bundle(dialect="standard").folder
    with pytest.raises(MissingPackageError, match=rf"^{backend}: No module named '{module}'"):
        edgekit.load(folder, threads=1, backend=backend)


def test_no_device_is_told_before_a_runtime_is_made(bundle):
    library = tensorrt(HostDevice())
    library.Runtime = None  # calling it would be an error of another kind
    publish(bundle, library)
    try:
        load_components(bundle, ["backbone"], FULL, CONTEXT, library=library)
    except EdgeKitError as error:
        assert str(error).startswith("tensorrt: no CUDA device answers on this machine, CUDA: ")  # noqa: PT017
    except TypeError:
        pytest.skip("this machine has a CUDA device")


def test_plans_beside_a_bundle_are_found_by_their_component_alone(bundle):
    library = tensorrt(HostDevice())
    store = publish(bundle, library)
    assert {name: len(store.notes(name)) for name in ("adapter", "backbone", "back", "decoder")} == {
        "adapter": 1, "backbone": 1, "back": 0, "decoder": 0,
    }  # fmt: skip
    assert PlanStore(bundle, store.folder / "nowhere").notes("adapter") == []
