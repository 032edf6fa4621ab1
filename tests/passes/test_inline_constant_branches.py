"""InlineConstantBranches: an If that is always decided alike becomes the nodes of its branch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.passes.inline_constant_branches import InlineConstantBranches

from .running import check_pass, operators, parse

X = np.arange(6, dtype=np.float32).reshape(2, 3)
BRANCHES = """<
    then_branch = t () => (float[2,3] a) <float k = {2}> { m = Mul (x, k)  a = Exp (m) },
    else_branch = e () => (float[2,3] b) <float k = {3}> { m = Add (x, k)  b = Neg (m) }
>"""


def value_names(model: ir.Model) -> list[str | None]:
    return [value.name for node in model.graph.all_nodes() for value in node.outputs]


@pytest.mark.parametrize("condition", [np.array(True), np.array([True]), np.array(False), np.array([[False]])])
def test_the_branch_taken_replaces_the_if(condition: np.ndarray) -> None:
    model = parse(
        f"g (float[2,3] x) => (float[2,3] y) {{ z = If (c) {BRANCHES}  y = Relu (z) }}",
        initializers={"c": condition},
    )
    assert check_pass(InlineConstantBranches(), model, {"x": X})
    assert operators(model) == (["Mul", "Exp", "Relu"] if condition.item() else ["Add", "Neg", "Relu"])
    assert value_names(model) == ["m", "z", "y"]
    assert model.graph.initializers["k"].const_value is not None
    assert model.graph.initializers["k"].const_value.numpy() == (2 if condition.item() else 3)


def test_names_that_occur_elsewhere_are_made_fresh() -> None:
    model = parse(
        f"""g (bool d, float[2,3] x) => (float[2,3] y, float[2,3] u, float[2,3] v, float[2,3] m) {{
            m = Abs (x)
            y = If (c) <
                then_branch = t () => (float[2,3] a) <float k = {{2}}> {{
                    n = Mul (x, k)  m_1 = Exp (n)  a = Neg (m_1)
                }},
                else_branch = e () => (float[2,3] b) {{ b = Neg (x) }}
            >
            u = If (c) {BRANCHES.replace("m", "n")}
            v = If (d) {BRANCHES.replace("m", "n")}
        }}""",
        initializers={"c": np.array(True)},
    )
    assert check_pass(InlineConstantBranches(), model, {"x": X, "d": np.array(False)})
    assert operators(model) == ["Abs", "Mul", "Exp", "Neg", "Mul", "Exp", "If"]
    names = value_names(model)
    assert names[:4] == ["m", "n_1", "m_1", "y"]
    own = [value.name for node in model.graph for value in node.outputs] + list(model.graph.initializers)
    assert len(set(own)) == len(own)
    assert "n" not in own  # it is what the branches of the If that stays call a value of theirs
    assert "k" not in own


def test_ifs_inside_branches_and_inside_loops() -> None:
    model = parse(
        """g (bool d, float[2,3] x) => (float[2,3] y, float[2,3] w)
        <int64 n = {3}, bool c = {1}, bool f = {0}> {
            y = If (c) <
                then_branch = t () => (float[2,3] a) {
                    q = If (d) <
                        then_branch = tt () => (float[2,3] p) { p = Sin (x) },
                        else_branch = te () => (float[2,3] p) {
                            p = If (c) <
                                then_branch = x1 () => (float[2,3] r) { r = Cos (x) },
                                else_branch = x2 () => (float[2,3] r) { r = Exp (x) }
                            >
                        }
                    >
                    r = If (f) <
                        then_branch = u1 () => (float[2,3] o) { o = Sqrt (q) },
                        else_branch = u2 () => (float[2,3] o) { o = Abs (q) }
                    >
                    a = Neg (r)
                },
                else_branch = e () => (float[2,3] b) {
                    b = If (c) <
                        then_branch = v1 () => (float[2,3] o) { o = Log (x) },
                        else_branch = v2 () => (float[2,3] o) { o = Tan (x) }
                    >
                }
            >
            w = Loop (n, c, x) <body = loop (int64 i, bool go, float[2,3] s) => (bool going, float[2,3] s1) {
                going = Identity (go)
                s1 = If (f) <
                    then_branch = l1 () => (float[2,3] o) { o = Sqrt (s) },
                    else_branch = l2 () => (float[2,3] o) { h = Neg (s)  o = Add (h, x) }
                >
            }>
        }"""
    )
    assert check_pass(InlineConstantBranches(), model, {"x": X, "d": np.array(False)})
    everywhere = sorted(node.op_type for node in model.graph.all_nodes())
    assert everywhere == sorted(["If", "Sin", "Cos", "Abs", "Neg", "Loop", "Identity", "Neg", "Add"])


def test_results_that_are_no_nodes_of_the_branch_are_copied() -> None:
    model = parse(
        """g (float[2,3] x) => (float[2,3] y, float[3] z, float[2,3] u, float[2,3] v) {
            h = Neg (x)
            y, z, u, v = If (c) <
                then_branch = t () => (float[2,3] h, float[3] k, float[2,3] e, float[2,3] e) <float[3] k = {1, 2, 3}> {
                    e = Exp (x)
                },
                else_branch = o () => (float[2,3] a, float[3] b, float[2,3] d, float[2,3] f) <float[3] j = {1, 2, 3}> {
                    a = Abs (x)  b = Identity (j)  d = Neg (a)  f = Exp (a)
                }
            >
        }""",
        initializers={"c": np.array([True])},
        infer=False,
    )
    # ONNX wants a node of the branch behind each of its outputs; other writers are not so strict.
    InlineConstantBranches().call(model)
    assert operators(model) == ["Neg", "Exp", "Identity", "Identity", "Identity"]
    assert [value.name for value in model.graph.outputs] == ["y", "z", "u", "v"]
    readers = {node.outputs[0].name: node.inputs[0].name for node in model.graph if node.inputs[0] is not None}
    assert readers == {"h": "x", "u": "x", "y": "h", "z": "k", "v": "u"}


def test_conditions_that_may_change_stay() -> None:
    text = f"g (bool c, float[2,3] x) => (float[2,3] y) {{ y = If (c) {BRANCHES} }}"
    model = parse(text)
    model.graph.inputs[0].const_value = ir.tensor(np.array(True), name="c")
    model.graph.register_initializer(model.graph.inputs[0])
    assert not check_pass(InlineConstantBranches(), model, {"x": X, "c": np.array(False)})
    model = parse(text.replace("bool c, ", ""), initializers={"c": np.array(True)})
    assert not check_pass(InlineConstantBranches(protected=["c"]), model, {"x": X})


def test_nodes_keep_their_names_and_metadata() -> None:
    model = parse(f"g (float[2,3] x) => (float[2,3] y) {{ y = If (c) {BRANCHES} }}", initializers={"c": np.array(True)})
    (conditional,) = model.graph
    branch = conditional.attributes["then_branch"].as_graph()
    for node in branch:
        node.name = f"/layer/{node.op_type}"
        node.metadata_props["source"] = "model.py"
    assert check_pass(InlineConstantBranches(), model, {"x": X})
    assert [node.name for node in model.graph] == ["/layer/Mul", "/layer/Exp"]
    assert all(node.metadata_props["source"] == "model.py" for node in model.graph)
