// Both ends of a mixture of experts on a GPU: the sort by expert, gather, combine, and their gradients. The sort is checked first
// against the reference, and so are rows at two of the shapes.
//
// Times are medians of graph replays, of rows over buffer sets that together exceed the L2 cache; the choices that are sorted are
// few and come from the kernel before, so they are in the cache here too. The share is that of the copy bandwidth of
// this run, counting every row once for each time it is copied, scaled or added, and each row that is written.

#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

/// A layer of 16384 tokens × 1152, top-1 of 8, through `torch._grouped_mm` (PyTorch 2.11 on an H100) takes 1.340 ms, of which its
/// two products are 0.340 and 0.188: the rest sorts, gathers, applies the non-linearity and scatters.
constexpr double torch_without_products_ms = 1.340 - 0.340 - 0.188;

template <class T, int Rank>
bool equal(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

Tensor<int, 2> random_experts(Index tokens, Index k, Index E) {
  Tensor<int, 2> out{Shape<2>{tokens, k}};
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s) {
      // Slots of a token have different experts.
      double const u = 0.5 + 0.5 * static_cast<double>(bench::uniform(5, static_cast<std::uint64_t>(t)));
      out(t, s) = static_cast<int>((static_cast<Index>(u * static_cast<double>(E)) + s) % E);
    }
  return out;
}

struct Sorted {
  DeviceTensor<Index, 1> offsets, order;
  DeviceTensor<Index, 2> places;
};

void run_sort(Cuda const& ctx, Index tokens, Index k, Index E) {
  auto const host = random_experts(tokens, k, E);
  auto const experts = to_device(ctx, host);
  DeviceTensor<Index, 1> const offsets{ctx, Shape<1>{E + 1}}, order{ctx, Shape<1>{tokens * k}}, dropped{ctx, Shape<1>{1}};
  DeviceTensor<Index, 1> const load{ctx, Shape<1>{E}};
  DeviceTensor<Index, 2> const places{ctx, Shape<2>{tokens, k}};
  bench::poison(ctx, offsets), bench::poison(ctx, order), bench::poison(ctx, places);
  auto const sort = [&](int) {
    dispatch(ctx, DispatchArgs{.experts = experts.view(), .offsets = offsets, .order = order, .places = places});
  };
  auto const limit = [&](int) {
    limit_capacity(ctx, LimitCapacityArgs{.experts = experts, .n_experts = E, .capacity = tokens * k, .dropped = dropped});
  };
  auto const count = [&](int) { expert_load(ctx, ExpertLoadArgs{.experts = experts.view(), .load = load}); };
  sort(0);
  Tensor<Index, 1> host_offsets{Shape<1>{E + 1}}, host_order{Shape<1>{tokens * k}};
  Tensor<Index, 2> host_places{Shape<2>{tokens, k}};
  dispatch(Reference{}, DispatchArgs{.experts = host, .offsets = host_offsets, .order = host_order, .places = host_places});
  bench::expect(equal(to_host(ctx, order), host_order) && equal(to_host(ctx, places), host_places) &&
                    equal(to_host(ctx, offsets), host_offsets),
                "dispatch");
  Tensor<Index, 1> host_load{Shape<1>{E}};
  expert_load(Reference{}, ExpertLoadArgs{.experts = host, .load = host_load});
  set_zero(ctx, load.view()), set_zero(ctx, dropped.view());
  limit(0), count(0);  // a capacity that none exceeds: nothing is dropped, and choices stay
  bench::expect(equal(to_host(ctx, load), host_load), "expert_load");
  bench::expect(equal(to_host(ctx, experts), host) && to_host(ctx, dropped)(0) == 0, "limit_capacity");
  double const bytes = static_cast<double>(tokens * k) * (4 + 8 + 8);
  double const ms = bench::milliseconds(ctx, 8, sort);
  std::printf("%8lld %3lld %5lld %10.2f %7.0f %10.2f %10.2f\n", tokens, k, E, 1e3 * ms, bytes / ms * 1e-6,
              1e3 * bench::milliseconds(ctx, 8, limit), 1e3 * bench::milliseconds(ctx, 8, count));
}

void run_rows(Cuda const& ctx, bench::Ceilings const& ceilings, Index tokens, Index k, Index D) {
  using T = bf16;
  Index const E = 8, places_count = tokens * k;
  auto const host = random_experts(tokens, k, E);
  auto const experts = to_device(ctx, host);
  Sorted const sorted{{ctx, Shape<1>{E + 1}}, {ctx, Shape<1>{places_count}}, {ctx, Shape<2>{tokens, k}}};
  dispatch(ctx, DispatchArgs{.experts = experts.view(), .offsets = sorted.offsets, .order = sorted.order, .places = sorted.places});
  auto const weights = bench::random_on_device<float>(ctx, Shape<2>{tokens, k}, 7);
  DeviceTensor<float, 2> const d_weights{ctx, Shape<2>{tokens, k}};
  struct Set {
    DeviceTensor<T, 2> by_token, to_token, by_place, to_place;
  };
  double const elements = static_cast<double>(tokens) * static_cast<double>(D);
  int const sets = bench::sets_of(elements * 2 * static_cast<double>(k));
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i)
    buffers.push_back({bench::random_on_device<T>(ctx, Shape<2>{tokens, D}, static_cast<std::uint64_t>(16 * i + 16)),
                       DeviceTensor<T, 2>{ctx, Shape<2>{tokens, D}},
                       bench::random_on_device<T>(ctx, Shape<2>{places_count, D}, static_cast<std::uint64_t>(16 * i + 17)),
                       DeviceTensor<T, 2>{ctx, Shape<2>{places_count, D}}});
  auto const of = [&](int i) -> Set const& { return buffers[static_cast<std::size_t>(i % sets)]; };
  auto const gather = [&](int i) {
    gather_tokens(ctx, GatherArgs<T>{.x = of(i).by_token.view(), .order = sorted.order.view(), .slots = k, .y = of(i).to_place});
  };
  auto const gather_back = [&](int i) {
    gather_tokens_backward(
        ctx, GatherBackwardArgs<T>{.places = sorted.places.view(), .d_y = of(i).by_place.view(), .d_x = of(i).to_token});
  };
  auto const add = [&](int i) {
    combine(ctx, CombineArgs<T>{
                     .x = of(i).by_place.view(), .places = sorted.places.view(), .weights = weights.view(), .y = of(i).to_token});
  };
  auto const add_back = [&](int i) {
    combine_backward(ctx, CombineBackwardArgs<T>{.x = of(i).by_place.view(),
                                                 .places = sorted.places.view(),
                                                 .weights = weights.view(),
                                                 .d_y = of(i).by_token.view(),
                                                 .d_x = of(i).to_place,
                                                 .d_weights = d_weights});
  };

  if ((D == 1152 && k == 2) || tokens == 64) {  // against the reference in double, from poisoned outputs
    auto const& b = of(0);
    auto const wide_token = converted<double>(to_host(ctx, b.by_token)), wide_place = converted<double>(to_host(ctx, b.by_place));
    auto const wide_weights = converted<double>(to_host(ctx, weights));
    auto const order = to_host(ctx, sorted.order);
    auto const places = to_host(ctx, sorted.places);
    Tensor<double, 2> token{wide_token.shape()}, place{wide_place.shape()}, dots{wide_weights.shape()};
    auto const right = [&](char const* name, auto const& got, auto const& exact, double terms) {
      bench::expect(static_cast<bool>(verify::compare(to_host(ctx, got).view(), exact.view(), verify::Cost{.terms = terms})), name);
    };
    bench::poison(ctx, b.to_token), bench::poison(ctx, b.to_place), bench::poison(ctx, d_weights);
    gather(0), add(0);
    gather_tokens(Reference{}, GatherArgs<double>{.x = wide_token, .order = order, .slots = k, .y = place});
    combine(Reference{}, CombineArgs<double>{.x = wide_place, .places = places, .weights = wide_weights, .y = token});
    right("gather_tokens", b.to_place, place, 0);
    right("combine", b.to_token, token, static_cast<double>(k));
    bench::poison(ctx, b.to_token), bench::poison(ctx, b.to_place);
    gather_back(0), add_back(0);
    gather_tokens_backward(Reference{}, GatherBackwardArgs<double>{.places = places, .d_y = wide_place, .d_x = token});
    combine_backward(
        Reference{},
        CombineBackwardArgs<double>{
            .x = wide_place, .places = places, .weights = wide_weights, .d_y = wide_token, .d_x = place, .d_weights = dots});
    right("gather_tokens_backward", b.to_token, token, static_cast<double>(k));
    right("combine_backward d_x", b.to_place, place, 1);
    right("combine_backward d_weights", d_weights, dots, static_cast<double>(D));
  }

  double const row = elements * sizeof(T), wide = static_cast<double>(k);
  auto const report = [&](char const* what, double bytes, auto const& launch) {
    double const ms = bench::milliseconds(ctx, std::max(sets, 4), launch);
    std::printf("%-23s %6lld %2lld %5lld %9.2f %7.0f %6.1f%%\n", what, tokens, k, D, 1e3 * ms, bytes / ms * 1e-6,
                1e5 * bytes / ms / ceilings.bytes_per_second);
    return ms;
  };
  double const there = report("gather_tokens", 2 * wide * row, gather);
  report("gather_tokens_backward", (wide + 1) * row, gather_back);
  double const back = report("combine", (wide + 1) * row, add);
  report("combine_backward", (2 * wide + 1) * row, add_back);
  if (tokens == 16384 && D == 1152 && k == 1)
    std::printf("  gather and combine: %.3f ms; sort, gather, non-linearity and scatter of PyTorch: %.3f ms\n", there + back,
                torch_without_products_ms);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("  tokens   k     E dispatch µs    GB/s limit µs    load µs\n");
    run_sort(ctx, 1, 1, 8);
    run_sort(ctx, 64, 2, 8);
    run_sort(ctx, 2048, 1, 8);
    run_sort(ctx, 16384, 1, 8);
    run_sort(ctx, 16384, 2, 64);
    run_sort(ctx, 1 << 20, 2, 8);
    run_sort(ctx, 1 << 20, 2, 256);
    std::printf("\nrows, bf16              tokens  k     D        us    GB/s   share\n");
    for (Index D : {1152, 1472})
      for (Index k : {1, 2}) run_rows(ctx, ceilings, 16384, k, D);
    run_rows(ctx, ceilings, 64, 1, 1152);
  });
}
