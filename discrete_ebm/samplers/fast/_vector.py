"""Vectors of eight 64-bit words as values inside numba functions.

LLVM does not vectorise loops over ten arrays that may overlap, which is what multi-spin coding is; with a vector as a
type of its own nothing is left to its judgement. Eight words are one AVX-512 register; on other processors LLVM splits
them. All operations are bitwise or modulo 2^64, so the width changes no result.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

__all__ = ["FLOATS", "LANES", "add_products", "any_bit", "broadcast", "load", "rotate", "shift_left", "store"]

LANES = 8
FLOATS = 16


class WordVector(types.Type):
    """The numba type of a vector of :data:`LANES` uint64."""

    def __init__(self) -> None:
        super().__init__(name="WordVector")


VECTOR = WordVector()


@register_model(WordVector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: WordVector) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(64), LANES))


def _splat(builder: Any, value: Any) -> Any:
    kind = ir.VectorType(ir.IntType(64), LANES)
    blank = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(blank, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(ir.IntType(64), LANES).as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Eight words of a contiguous one-dimensional array from ``index`` on; no bounds are checked."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        found = builder.load(_pointer(context, builder, signature.args[0], *values))
        found.align = 8
        return found

    return VECTOR(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """The opposite of :func:`load`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        done = builder.store(values[2], _pointer(context, builder, signature.args[0], values[0], values[1]))
        done.align = 8
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@intrinsic
def broadcast(typing: Any, word: Any) -> Any:
    """The same word in all places."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, values[0])

    return VECTOR(types.uint64), generate


@intrinsic
def rotate(typing: Any, vector: Any, count: Any) -> Any:
    """Each word rotated left by ``count``, 1 to 63."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        left = _splat(builder, values[1])
        right = builder.sub(ir.Constant(left.type, [64] * LANES), left)
        return builder.or_(builder.shl(values[0], left), builder.lshr(values[0], right))

    return VECTOR(VECTOR, types.uint64), generate


@intrinsic
def shift_left(typing: Any, vector: Any, count: Any) -> Any:
    """Each word shifted left by ``count``, 0 to 63."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.shl(values[0], _splat(builder, values[1]))

    return VECTOR(VECTOR, types.uint64), generate


@intrinsic
def any_bit(typing: Any, vector: Any) -> Any:
    """Whether any bit of any word is set."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zero = ir.Constant(values[0].type, [0] * LANES)
        mask = ir.IntType(LANES)
        different = builder.bitcast(builder.icmp_unsigned("!=", values[0], zero), mask)
        return builder.icmp_unsigned("!=", different, ir.Constant(mask, 0))

    return types.boolean(VECTOR), generate


def _register(operation: Any, name: str) -> None:
    @type_callable(operation)
    def _type(context: Any) -> Any:
        return lambda left, right: left if isinstance(left, WordVector) and left == right else None

    @lower_builtin(operation, WordVector, WordVector)
    def _lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, name)(*values)


for _operation, _name in ((operator.and_, "and_"), (operator.or_, "or_"), (operator.xor, "xor"), (operator.add, "add")):
    _register(_operation, _name)


@type_callable(operator.invert)
def _type_invert(context: Any) -> Any:
    return lambda vector: vector if isinstance(vector, WordVector) else None


@lower_builtin(operator.invert, WordVector)
def _lower_invert(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.not_(values[0])


@intrinsic
def add_products(typing: Any, total: Any, at: Any, field: Any, spins: Any, indices: Any, weights: Any, first: Any,
                 last: Any) -> Any:
    """total[at : at + 16] = field + Σ_e weights[e] · spins[indices[e], at : at + 16], e from ``first`` to ``last`` − 1.

    The sum stays in a register. ``total`` (L,), ``field`` and ``weights`` float32, ``spins`` (N, L) int8 contiguous.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(kind)(context, builder, value) for kind, value in
                  zip(signature.args, values, strict=True) if isinstance(kind, types.Array)]
        out, states, columns, factors = arrays
        at_value, start, stop = values[1], values[6], values[7]
        single, word = ir.FloatType(), ir.IntType(64)
        kind = ir.VectorType(single, FLOATS)

        def spread(value: Any) -> Any:
            blank = ir.Constant(kind, ir.Undefined)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), FLOATS), [0] * FLOATS)
            return builder.shuffle_vector(builder.insert_element(blank, value, ir.IntType(32)(0)), blank, zeros)

        width = builder.extract_value(states.strides, 0)
        before = builder.block
        head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        field_vector = spread(values[2])
        builder.branch(head)
        builder.position_at_end(head)
        entry, running = builder.phi(word), builder.phi(kind)
        entry.add_incoming(start, before)
        running.add_incoming(field_vector, before)
        builder.cbranch(builder.icmp_signed("<", entry, stop), body, after)
        builder.position_at_end(body)
        column = builder.sext(builder.load(builder.gep(columns.data, [entry])), word)
        place = builder.gep(states.data, [builder.add(builder.mul(column, width), at_value)])
        eight = builder.load(builder.bitcast(place, ir.VectorType(ir.IntType(8), FLOATS).as_pointer()))
        eight.align = 1
        spin = builder.sitofp(eight, kind)
        more = builder.fadd(running, builder.fmul(spread(builder.load(builder.gep(factors.data, [entry]))), spin))
        entry.add_incoming(builder.add(entry, word(1)), body)
        running.add_incoming(more, body)
        builder.branch(head)
        builder.position_at_end(after)
        done = builder.store(running, builder.bitcast(builder.gep(out.data, [at_value]), kind.as_pointer()))
        done.align = 4
        return context.get_dummy_value()

    signature = types.void(total, types.intp, types.float32, spins, indices, weights, types.intp, types.intp)
    return signature, generate
