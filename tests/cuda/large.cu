// Tensors of more than 2^31 elements: an index that is 32 bits wide somewhere would miss the end of them.

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/compare.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;

namespace {

/// Numbers in (centre - spread, centre + spread), the same for the same stream and index in the period.
template <class T>
__global__ void fill_kernel(T* out, Index count, Index period, unsigned stream, float centre, float spread) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += Index{gridDim.x} * blockDim.x) {
    auto x = static_cast<unsigned long long>(i % period) * 0x9e3779b97f4a7c15ull + stream * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 29)) * 0x94d049bb133111ebull;
    out[i] = static_cast<T>(fmaf(spread, static_cast<float>(static_cast<int>(x >> 32)) * 0x1p-31f, centre));
  }
}

template <class T, int Rank>
DeviceTensor<T, Rank> filled(Cuda const& ctx, Shape<Rank> shape, unsigned stream, float centre, float spread, Index period = 0) {
  DeviceTensor<T, Rank> out{ctx, shape};
  fill_kernel<<<2048, 256, 0, ctx.stream()>>>(out.data(), out.size(), period ? period : out.size(), stream, centre, spread);
  detail::check_launch("fill_kernel");
  return out;
}

/// Counts the elements whose bits are not those of the first period.
__global__ void count_differing(View<bf16 const, 1> x, Index period, unsigned long long* differing) {
  unsigned long long mine = 0;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < x.extent(0); i += Index{gridDim.x} * blockDim.x)
    mine += x[i].bits != x[i % period].bits;
  if (mine) atomicAdd(differing, mine);
}

/// Whether every entry of a batch has the bits of the first.
template <int Rank>
bool entries_alike(Cuda const& ctx, DeviceTensor<bf16, Rank> const& x) {
  auto const differing = to_device(ctx, Tensor<unsigned long long, 1>{Shape<1>{1}});
  count_differing<<<2048, 256, 0, ctx.stream()>>>(View<bf16 const, 1>{x.data(), Shape<1>{x.size()}}, x.size() / x.shape()[0],
                                                  differing.data());
  detail::check_launch("count_differing");
  return to_host(ctx, differing)(0) == 0;
}

/// Gradients of a scan with all bits set.
struct ScanGradients {
  DeviceTensor<bf16, 3> u, delta, z;
  DeviceTensor<bf16, 4> B, C;

  ScanGradients(Cuda const& ctx, Shape<3> shape, Index N)
      : u{ctx, shape}, delta{ctx, shape}, z{ctx, shape}, B{ctx, Shape<4>{shape[0], shape[1], 1, N}}, C{ctx, B.shape()} {
    auto const poison = [&](auto const& t) {
      detail::check_cuda(cudaMemsetAsync(t.data(), 0xff, static_cast<std::size_t>(t.size()) * 2, ctx.stream()), "memset");
    };
    poison(u), poison(delta), poison(z), poison(B), poison(C);
  }

  void to(SelectiveScanBackwardArgs<bf16>& a) const { a.d_u = u, a.d_delta = delta, a.d_z = z, a.d_B = B, a.d_C = C; }
};

/// The part of `got` from an element on, as large as what is expected of it. Both are rounded to bf16, from sums over states and
/// time, of the channels' too, that are cut at different places.
template <int Rank>
void check_close(Cuda const& ctx, char const* name, DeviceTensor<bf16, Rank> const& got, Index from,
                 DeviceTensor<bf16, Rank> const& expected, Index terms) {
  INFO(name);
  auto const part = to_host(ctx, View<bf16, Rank>{got.data() + from, expected.shape()});
  auto const exact = converted<double>(to_host(ctx, expected));
  CHECK_CLOSE(verify::compare(part.view(), exact.view(),
                              {.terms = 2.0 * static_cast<double>(terms), .roundings = 2, .gain = 2, .scale = 1}));
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

GPU_TEST_WITH(56, "selective_scan_backward on a GPU: in a batch of more than 2^31 elements equal entries have equal gradients") {
  Cuda const ctx;
  // The length of an entry does not divide 2^31 or 2^32: a wrapped index finds other numbers.
  Index const D = 2304, N = 16, L = 1021, batch = (Index{1} << 31) / (L * D) + 2;
  CHECK(batch * L * D > Index{1} << 31);
  Shape<3> const shape{batch, L, D};
  Shape<4> const bc{batch, L, 1, N};
  Index const entry = L * D, bc_entry = L * N;
  auto const u = filled<bf16>(ctx, shape, 1, 0, 1, entry), delta = filled<bf16>(ctx, shape, 2, -1, 1, entry),
             z = filled<bf16>(ctx, shape, 3, 0, 1, entry), d_y = filled<bf16>(ctx, shape, 4, 0, 1, entry);
  auto const A = filled<float>(ctx, Shape<2>{D, N}, 5, -2, 1);
  auto const B = filled<bf16>(ctx, bc, 6, 0, 1, bc_entry), C = filled<bf16>(ctx, bc, 7, 0, 1, bc_entry);
  auto const run = [&](Index entries, ScanGradients const& to) {
    auto const d_A = to_device(ctx, Tensor<float, 2>{Shape<2>{D, N}});
    SelectiveScanBackwardArgs<bf16> a{.u = u.view().slice(0, 0, entries),
                                      .delta = delta.view().slice(0, 0, entries),
                                      .A = A.view(),
                                      .B = B.view().slice(0, 0, entries),
                                      .C = C.view().slice(0, 0, entries),
                                      .z = z.view().slice(0, 0, entries),
                                      .delta_softplus = true,
                                      .d_y = d_y.view().slice(0, 0, entries),
                                      .d_A = d_A};
    to.to(a);
    selective_scan_backward(ctx, a);
    return to_host(ctx, d_A);
  };
  ScanGradients const all{ctx, shape, N}, one{ctx, Shape<3>{1, L, D}, N};
  auto const d_A = run(batch, all), d_A_of_one = run(1, one);
  CHECK(entries_alike(ctx, all.u));
  CHECK(entries_alike(ctx, all.delta));
  CHECK(entries_alike(ctx, all.z));
  CHECK(entries_alike(ctx, all.B));
  CHECK(entries_alike(ctx, all.C));
  // And they are what one entry alone has, which is cut into other pieces of time.
  check_close(ctx, "d_u", all.u, 0, one.u, L + N);
  check_close(ctx, "d_delta", all.delta, 0, one.delta, L + N);
  check_close(ctx, "d_z", all.z, 0, one.z, L + N);
  check_close(ctx, "d_B", all.B, 0, one.B, L + D);
  check_close(ctx, "d_C", all.C, 0, one.C, L + D);
  auto times = converted<double>(d_A_of_one);
  for (double& x : times) x *= static_cast<double>(batch);
  CHECK_CLOSE(verify::compare(d_A.view(), times.view(), {.terms = static_cast<double>(batch * L), .gain = 2}));
}

GPU_TEST_WITH(56, "selective_scan_backward on a GPU: a sequence of more than 2^31 elements ends as its last part alone") {
  Cuda const ctx;
  Index const D = 2304, N = 16, part = 1000, L = (Index{1} << 31) / D + part, first = L - part;
  CHECK(L * D > Index{1} << 31);
  Shape<3> const shape{1, L, D};
  Shape<4> const bc{1, L, 1, N};
  auto const u = filled<bf16>(ctx, shape, 1, 0, 1), delta = filled<bf16>(ctx, shape, 2, -1, 1),
             z = filled<bf16>(ctx, shape, 3, 0, 1), d_y = filled<bf16>(ctx, shape, 4, 0, 1);
  auto const A = filled<float>(ctx, Shape<2>{D, N}, 5, -2, 1);
  auto const B = filled<bf16>(ctx, bc, 6, 0, 1), C = filled<bf16>(ctx, bc, 7, 0, 1);
  ScanGradients const all{ctx, shape, N}, last{ctx, Shape<3>{1, part, D}, N};
  DeviceTensor<float, 3> const state{ctx, Shape<3>{1, D, N}};
  // Its outputs are not looked at: where gradients come later is room for them.
  selective_scan(ctx, SelectiveScanArgs<bf16>{.u = u.view().slice(1, 0, first),
                                              .delta = delta.view().slice(1, 0, first),
                                              .A = A.view(),
                                              .B = B.view().slice(1, 0, first),
                                              .C = C.view().slice(1, 0, first),
                                              .delta_softplus = true,
                                              .last_state = state,
                                              .y = all.u.view().slice(1, 0, first)});
  auto const run = [&](Index begin, View<float const, 3> from, ScanGradients const& to) {
    Index const length = L - begin;
    SelectiveScanBackwardArgs<bf16> a{.u = u.view().slice(1, begin, length),
                                      .delta = delta.view().slice(1, begin, length),
                                      .A = A.view(),
                                      .B = B.view().slice(1, begin, length),
                                      .C = C.view().slice(1, begin, length),
                                      .z = z.view().slice(1, begin, length),
                                      .delta_softplus = true,
                                      .initial_state = from,
                                      .d_y = d_y.view().slice(1, begin, length)};
    to.to(a);
    selective_scan_backward(ctx, a);
  };
  run(0, {}, all);
  run(first, state.view(), last);
  // Every state of a channel decays so fast that a long past adds no terms.
  check_close(ctx, "d_u", all.u, first * D, last.u, part + N);
  check_close(ctx, "d_delta", all.delta, first * D, last.delta, part + N);
  check_close(ctx, "d_z", all.z, first * D, last.z, part + N);
  check_close(ctx, "d_B", all.B, first * N, last.B, part + D);
  check_close(ctx, "d_C", all.C, first * N, last.C, part + D);
}
