#pragma once
/// \file
/// AdamW on a GPU: pieces of the segments to blocks, 16 bytes an access.

#include <algorithm>

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/adamw/adamw.hpp>

namespace blackmamba {

namespace detail {

inline constexpr int adamw_threads = 256;
inline constexpr Index adamw_piece = 8192;  // elements of a block

/// Segments that one launch is told of in its parameters, which hold 4 KiB.
inline constexpr int adamw_table = 112;

/// A segment and the first block that works on it.
struct AdamWPart {
  Index offset, elements;
  unsigned first_block;
  bool decays;
};

template <class T>
struct AdamWLaunch {
  AdamWArgs<T> args;
  AdamWFactors<accumulator_t<T>> factors;       ///< where they are known
  AdamWFactors<accumulator_t<T>> const* there;  ///< where they are not
  int parts;
  bool whole;  ///< all arrays are contiguous and aligned to 16 bytes
  AdamWPart part[adamw_table];
};
static_assert(sizeof(AdamWLaunch<bf16>) <= 4096 && sizeof(AdamWLaunch<double>) <= 4096);

static __global__ void adamw_request_kernel(__grid_constant__ AdamWRequestArgs const a) {
  a.scalars[0].learning_rate = a.learning_rate, a.scalars[0].gradient_scale = a.gradient_scale;
}

template <class S>
__global__ void adamw_clip_kernel(__grid_constant__ AdamWClipArgs<S> const a) {
  clip_step(a);
}

template <class T>
__global__ void adamw_factors_kernel(__grid_constant__ AdamWArgs<T> const a, AdamWFactors<accumulator_t<T>>* out) {
  if (a.scalars[0].applied) *out = AdamWFactors<accumulator_t<T>>{a, a.scalars[0]};
}

template <class A>
struct AdamWElement {
  A master, first, second;
};

/// The formula, in the order of the reference.
template <class A>
__device__ __forceinline__ AdamWElement<A> adamw_element(AdamWFactors<A> const& f, bool decays, AdamWElement<A> x, A gradient) {
  A const g = gradient * f.scale;
  x.first = f.beta1 * x.first + f.rest1 * g;
  x.second = f.beta2 * x.second + f.rest2 * g * g;
  A change = f.rate * x.first / (::sqrt(x.second) * f.correction + f.epsilon);
  if (decays) change += f.decay * x.master;
  x.master -= change;
  return x;
}

/// Read once, so that nothing else has to leave the caches for it.
template <class L>
__device__ __forceinline__ L load_once(L const* from) {
  static_assert(sizeof(L) == 16);
  return __builtin_bit_cast(L, __ldcs(reinterpret_cast<float4 const*>(from)));
}
template <class L>
__device__ __forceinline__ void store_once(L* to, L const& x) {
  if constexpr (sizeof(L) == 16) {
    __stcs(reinterpret_cast<float4*>(to), __builtin_bit_cast(float4, x));
  } else {
    static_assert(sizeof(L) == 8);
    __stcs(reinterpret_cast<float2*>(to), __builtin_bit_cast(float2, x));
  }
}

template <class T>
__global__ void __launch_bounds__(adamw_threads) adamw_kernel(__grid_constant__ AdamWLaunch<T> const l) {
  using A = accumulator_t<T>;
  AdamWArgs<T> const& a = l.args;
  if (l.there && !a.scalars[0].applied) return;
  AdamWFactors<A> const f = l.there ? *l.there : l.factors;
  int low = 0;
  for (int high = l.parts; high - low > 1;) {
    int const middle = (low + high) / 2;
    if (l.part[middle].first_block <= blockIdx.x)
      low = middle;
    else
      high = middle;
  }
  AdamWPart const& part = l.part[low];
  Index const from = Index{blockIdx.x - part.first_block} * adamw_piece, rest = part.elements - from;
  int const count = rest < adamw_piece ? static_cast<int>(rest) : static_cast<int>(adamw_piece);
  Index const begin = part.offset + from;
  bool const decays = part.decays && f.decays;

  constexpr int V = lanes_of<A>;
  using L = Lanes<A, V>;
  bool const whole = l.whole && begin % V == 0;
  int const in_lanes = whole ? count / V * V : 0;
  for (int i = static_cast<int>(threadIdx.x) * V; i < in_lanes; i += adamw_threads * V) {
    auto const at = [&](auto* data) { return reinterpret_cast<L*>(const_cast<A*>(data) + begin + i); };
    L master = load_once(at(a.master.data())), first = load_once(at(a.first.data())), second = load_once(at(a.second.data()));
    L const gradient = load_once(at(a.gradient.data()));
    Lanes<T, V> weights;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      auto const x = adamw_element(f, decays, AdamWElement<A>{master.of[k], first.of[k], second.of[k]}, gradient.of[k]);
      master.of[k] = x.master, first.of[k] = x.first, second.of[k] = x.second;
      weights.of[k] = device_round<T>(x.master);
    }
    store_once(at(a.master.data()), master), store_once(at(a.first.data()), first), store_once(at(a.second.data()), second);
    if (a.weights) store_once(reinterpret_cast<Lanes<T, V>*>(a.weights.data() + begin + i), weights);
  }
  for (Index i = begin + in_lanes + threadIdx.x; i < begin + count; i += adamw_threads) {
    auto const x = adamw_element(f, decays, AdamWElement<A>{a.master[i], a.first[i], a.second[i]}, a.gradient[i]);
    a.master[i] = x.master, a.first[i] = x.first, a.second[i] = x.second;
    if (a.weights) a.weights[i] = device_round<T>(x.master);
  }
}

}  // namespace detail

template <std::derived_from<Cuda> Ctx>
void adamw_request_on(Ctx const& ctx, AdamWRequestArgs const& a) {
  detail::DeviceScope const device{ctx.device()};
  detail::adamw_request_kernel<<<1, 1, 0, ctx.stream()>>>(a);
  detail::check_launch("adamw_request_kernel");
}

template <Scalar S>
void adamw_clip_on(Cuda const& ctx, AdamWClipArgs<S> const& a) {
  detail::DeviceScope const device{ctx.device()};
  detail::adamw_clip_kernel<S><<<1, 1, 0, ctx.stream()>>>(a);
  detail::check_launch("adamw_clip_kernel");
}

/// Fast where all arrays are contiguous and aligned to 16 bytes and segments begin at multiples of 4 elements. The segments are
/// read on the host as this is queued, 112 of them a launch.
template <Scalar T>
void adamw_on(Cuda const& ctx, AdamWArgs<T> const& a) {
  using A = accumulator_t<T>;
  auto const aligned = [](auto const& view) {
    return !view || ((view.extent(0) <= 1 || view.stride(0) == 1) && reinterpret_cast<std::uintptr_t>(view.data()) % 16 == 0);
  };
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  detail::AdamWFactors<A>* there = nullptr;
  if (a.scalars) {
    there = ctx.scratch().template take<detail::AdamWFactors<A>>(Shape<1>{1}).data();
    detail::adamw_factors_kernel<T><<<1, 1, 0, ctx.stream()>>>(a, there);
    detail::check_launch("adamw_factors_kernel");
  }
  detail::AdamWLaunch<T> launch{
      a,
      detail::AdamWFactors<A>{a},
      there,
      0,
      aligned(a.master) && aligned(a.gradient) && aligned(a.first) && aligned(a.second) && aligned(a.weights),
      {}};
  Index blocks = 0;
  auto const flush = [&] {
    if (blocks == 0) return;
    detail::adamw_kernel<T><<<static_cast<unsigned>(blocks), detail::adamw_threads, 0, ctx.stream()>>>(launch);
    detail::check_launch("adamw_kernel");
    launch.parts = 0, blocks = 0;
  };
  // A launch has less than 2^31 blocks: a longer segment is cut.
  constexpr Index most = Index{1} << 30;
  for (Index s = 0; s < a.segments.extent(0); ++s) {
    AdamWSegment const& segment = a.segments[s];
    for (Index at = 0; at < segment.elements; at += most * detail::adamw_piece) {
      Index const elements = std::min(segment.elements - at, most * detail::adamw_piece);
      Index const more = ceil_div(elements, detail::adamw_piece);
      if (launch.parts == detail::adamw_table || blocks + more > most) flush();
      launch.part[launch.parts++] = {segment.offset + at, elements, static_cast<unsigned>(blocks), segment.decays};
      blocks += more;
    }
  }
  flush();
}

}  // namespace blackmamba
