// Tensors of more than 2^31 elements: an index that is 32 bits wide somewhere would miss the end of them.

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/compare.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;

namespace {

/// Numbers in (centre - spread, centre + spread), the same for the same stream and index.
template <class T>
__global__ void fill_kernel(T* out, Index count, unsigned stream, float centre, float spread) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += Index{gridDim.x} * blockDim.x) {
    auto x = static_cast<unsigned long long>(i) * 0x9e3779b97f4a7c15ull + stream * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 29)) * 0x94d049bb133111ebull;
    out[i] = static_cast<T>(fmaf(spread, static_cast<float>(static_cast<int>(x >> 32)) * 0x1p-31f, centre));
  }
}

template <class T, int Rank>
DeviceTensor<T, Rank> filled(Cuda const& ctx, Shape<Rank> shape, unsigned stream, float centre, float spread) {
  DeviceTensor<T, Rank> out{ctx, shape};
  fill_kernel<<<2048, 256, 0, ctx.stream()>>>(out.data(), out.size(), stream, centre, spread);
  detail::check_launch("fill_kernel");
  return out;
}

}  // namespace

GPU_TEST_WITH(30,
              "selective_scan on a GPU: a tensor of more than 2^31 elements ends as its last part does from the state before it") {
  Cuda const ctx;
  Index const D = 2304, N = 16, part = 4096, L = (Index{1} << 31) / D + part;
  CHECK(L * D > Index{1} << 31);
  auto const u = filled<bf16>(ctx, Shape<3>{1, L, D}, 1, 0, 1), delta = filled<bf16>(ctx, Shape<3>{1, L, D}, 2, -1, 1),
             z = filled<bf16>(ctx, Shape<3>{1, L, D}, 3, 0, 1);
  auto const A = filled<float>(ctx, Shape<2>{D, N}, 4, -2, 1);
  auto const B = filled<bf16>(ctx, Shape<4>{1, L, 1, N}, 5, 0, 1), C = filled<bf16>(ctx, Shape<4>{1, L, 1, N}, 6, 0, 1);
  DeviceTensor<bf16, 3> const y{ctx, Shape<3>{1, L, D}}, again{ctx, Shape<3>{1, part, D}};
  DeviceTensor<float, 3> const state{ctx, Shape<3>{1, D, N}}, after{ctx, Shape<3>{1, D, N}}, last{ctx, Shape<3>{1, D, N}};
  auto const scan = [&](Index begin, Index length, View<float const, 3> from, View<float, 3> to, View<bf16, 3> out) {
    selective_scan(ctx, SelectiveScanArgs<bf16>{.u = u.view().slice(1, begin, length),
                                                .delta = delta.view().slice(1, begin, length),
                                                .A = A.view(),
                                                .B = B.view().slice(1, begin, length),
                                                .C = C.view().slice(1, begin, length),
                                                .z = z.view().slice(1, begin, length),
                                                .delta_softplus = true,
                                                .initial_state = from,
                                                .last_state = to,
                                                .y = out});
  };
  scan(0, L - part, {}, state, y.view().slice(1, 0, L - part));
  scan(L - part, part, state.view(), after, again);
  scan(0, L, {}, last, y);
  View<bf16, 3> const tail{y.data() + (L - part) * D, again.shape()};
  auto const got = to_host(ctx, tail);
  auto const wanted = to_host(ctx, again);
  // Both are rounded to bf16, and cut into pieces at other times.
  verify::Cost const cost{.terms = 2.0 * static_cast<double>(part + N), .roundings = 2, .scale = 1};
  auto const exact = converted<double>(wanted);
  auto const comparison = verify::compare(got.view(), exact.view(), cost);
  CHECK_MESSAGE(static_cast<bool>(comparison), comparison.describe());
  auto const ends = to_host(ctx, last);
  auto const ended = converted<double>(to_host(ctx, after));
  auto const states =
      verify::compare(ends.view(), ended.view(), verify::Cost{.terms = 2.0 * static_cast<double>(part), .scale = 1});
  CHECK_MESSAGE(static_cast<bool>(states), states.describe());
}
