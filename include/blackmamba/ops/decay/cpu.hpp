#pragma once
/// \file
/// The decay matrix on packs: a decoding step computes one for every layer, so it must not be seen beside the weights' bytes.

#include <blackmamba/core/simd.hpp>
#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/decay/decay.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void decay_on(Cpu const& ctx, DecayArgs<T> const& args) {
  constexpr Index W = simd::width<accumulator_t<T>>;
  if (!args.A.contiguous() || !args.A_log.contiguous()) return decay_on(static_cast<Reference const&>(ctx), args);
  parallel_ranges(ctx.threads(), args.A.size(), Index{1} << 14, [&](Index begin, Index end) {
    Index i = begin;
    for (; i + W <= end; i += W) simd::store(args.A.data() + i, -simd::exp(simd::load(args.A_log.data() + i)));
    if (Index const rest = end - i)
      simd::store_part(args.A.data() + i, -simd::exp(simd::load_part(args.A_log.data() + i, rest)), rest);
  });
}

}  // namespace blackmamba
