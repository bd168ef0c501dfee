#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/dispatch.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// Experts at random; `drops` of 8 assignments are dropped, and `heavy` of 8 are expert 0.
Tensor<int, 2> random_experts(Index tokens, Index k, Index E, Index drops, Index heavy) {
  Tensor<int, 2> out{Shape{tokens, k}};
  Random const random{11};
  for (Index i = 0; i < out.size(); ++i) {
    auto const at = static_cast<std::uint64_t>(i);
    Index const eighth = random.below(2 * at, 8);
    out.data()[i] = E == 0 || eighth < drops ? -1 : eighth < drops + heavy ? 0 : static_cast<int>(random.below(2 * at + 1, E));
  }
  return out;
}

struct Sorted {
  Tensor<Index, 1> offsets, order;
  Tensor<Index, 2> places;
};

Sorted on_host(Tensor<int, 2> const& experts, Index E) {
  Sorted out{Tensor<Index, 1>{Shape{E + 1}}, Tensor<Index, 1>{Shape{experts.size()}}, Tensor<Index, 2>{experts.shape()}};
  dispatch(Reference{}, DispatchArgs{.experts = experts, .offsets = out.offsets, .order = out.order, .places = out.places});
  return out;
}

/// `turned`: experts and places lie in memory slot by slot.
Sorted on_device(Cuda const& ctx, Tensor<int, 2> const& experts, Index E, bool turned) {
  Index const tokens = experts.extent(0), k = experts.extent(1);
  Tensor<int, 2> memory{turned ? Shape{k, tokens} : Shape{tokens, k}};
  auto const host = turned ? memory.view().transposed(0, 1) : memory.view();
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s) host(t, s) = experts(t, s);
  auto const there = to_device(ctx, memory);
  DeviceTensor<Index, 1> const offsets{ctx, Shape{E + 1}}, order{ctx, Shape{experts.size()}};
  DeviceTensor<Index, 2> const places{ctx, memory.shape()};
  auto const turn = [&](auto view) { return turned ? view.transposed(0, 1) : view; };
  dispatch(ctx, DispatchArgs{.experts = turn(there.view()), .offsets = offsets, .order = order, .places = turn(places.view())});
  auto const by_memory = to_host(ctx, places);
  auto view = turn(by_memory.view());
  return {to_host(ctx, offsets), to_host(ctx, order), converted<Index>(view)};
}

/// A number for each element of a matrix, exact in bf16.
__host__ __device__ inline float element(Index row, Index column) {
  return static_cast<float>((row * 31 + column * 7) % 251 - 125);
}

__global__ void fill_elements(View<bf16, 2> x) {
  for (Index r = blockIdx.x; r < x.extent(0); r += gridDim.x)
    for (Index d = threadIdx.x; d < x.extent(1); d += blockDim.x) x(r, d) = bf16{element(r, d)};
}
/// Every 97th row, and the last: row p holds row `rows - 1 - p`, or its own where not `reversed`.
__global__ void count_wrong(View<bf16 const, 2> y, bool reversed, unsigned* wrong) {
  Index const rows = y.extent(0);
  for (Index i = blockIdx.x; i * 97 < rows; i += gridDim.x) {
    Index const p = rows - 1 - i * 97, from = reversed ? rows - 1 - p : p;
    for (Index d = threadIdx.x; d < y.extent(1); d += blockDim.x)
      if (static_cast<float>(y(p, d)) != element(from, d)) atomicAdd(wrong, 1u);
  }
}
__global__ void reverse(View<Index, 1> order) {
  Index const count = order.extent(0);
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += Index{gridDim.x} * blockDim.x)
    order[i] = count - 1 - i;
}
__global__ void fill_ones(View<float, 2> x) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < x.size(); i += Index{gridDim.x} * blockDim.x) x.data()[i] = 1;
}

}  // namespace

GPU_TEST("dispatch on a GPU: the sort is the reference's, whatever the shape, the strides and the balance") {
  Cuda const ctx;
  auto const check = [&](Index tokens, Index k, Index E, Index drops, Index heavy, bool turned) {
    INFO(concat("tokens ", tokens, ", k ", k, ", E ", E, ", drops ", drops, ", heavy ", heavy, ", turned ", turned));
    auto const experts = random_experts(tokens, k, E, drops, heavy);
    auto const expected = on_host(experts, E);
    auto const got = on_device(ctx, experts, E, turned);
    CHECK(same_bits(got.offsets, expected.offsets));
    CHECK(same_bits(got.order, expected.order));
    CHECK(same_bits(got.places, expected.places));
  };
  for (Index tokens : {0, 1, 31, 33, 64, 1000, 4096, 4097, 20011})
    for (Index E : {0, 1, 2, 8, 31, 256, 257, 600}) {
      check(tokens, 1, E, 0, 0, false);
      check(tokens, 2, E, 2, 3, tokens % 2 == 1);
    }
  check(700001, 3, 8, 1, 0, true);
  check(700001, 2, 256, 0, 7, false);
  check(5, 0, 3, 0, 0, false);
}

GPU_TEST("limit_capacity and expert_load on a GPU: the same integers as the reference's") {
  Cuda const ctx;
  for (Index tokens : {0, 1, 37, 4097, 60000})
    for (Index E : {1, 8, 300, 5000})
      for (Index capacity : {0, 1, 900}) {
        INFO(concat("tokens ", tokens, ", E ", E, ", capacity ", capacity));
        auto experts = random_experts(tokens, 2, E, 1, 2);
        auto const there = to_device(ctx, experts);
        Tensor<Index, 1> load{Shape{E}};
        for (Index& n : load) n = 7;
        auto const load_there = to_device(ctx, load);
        DeviceTensor<Index, 1> const dropped{ctx, Shape<1>{1}};
        expert_load(Reference{}, ExpertLoadArgs{.experts = experts, .load = load});
        expert_load(ctx, ExpertLoadArgs{.experts = there.view(), .load = load_there});
        Index const n = limit_capacity(Reference{}, LimitCapacityArgs{.experts = experts, .n_experts = E, .capacity = capacity});
        limit_capacity(ctx, LimitCapacityArgs{.experts = there, .n_experts = E, .capacity = capacity, .dropped = dropped});
        CHECK(to_host(ctx, dropped)(0) == n);
        CHECK(same_bits(to_host(ctx, there), experts));
        CHECK(same_bits(to_host(ctx, load_there), load));
      }
}

GPU_TEST_TEMPLATE("gather and combine on a GPU, and their gradients: every shape agrees with the double reference", T, float,
                  double, Half, bf16) {
  Cuda const ctx;
  std::vector<verify::DispatchSize> sizes;
  for (Index tokens : {1, 5, 300})
    for (Index k : {1, 2, 5})
      for (Index D : {1, 8, 33, 768, 1152, 1472})
        if (tokens < 10 || D < 40 || (k == 2 && D == 1152)) sizes.push_back({tokens, k, 8, D, k == 2});
  expect_right(verify::check<verify::GatherTokensProblem, T>(ctx));
  expect_right(verify::check<verify::GatherTokensProblem, T>(ctx, {}, sizes));
  expect_right(verify::check<verify::CombineProblem, T>(ctx));
  expect_right(verify::check<verify::CombineProblem, T>(ctx, {}, sizes));
  expect_right(verify::check<verify::GatherBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::GatherBackwardProblem, T>(ctx, {}, sizes));
  expect_right(verify::check<verify::CombineBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::CombineBackwardProblem, T>(ctx, {}, sizes));
}

GPU_TEST("gather and combine on a GPU: strides change no bit") {
  Cuda const ctx;
  Index const tokens = 77, k = 2, D = 40, E = 4, rows = tokens * k;
  auto const sorted = on_host(random_experts(tokens, k, E, 1, 0), E);
  auto const order = to_device(ctx, sorted.order);
  auto const places = to_device(ctx, sorted.places);
  auto const weights = to_device(ctx, random_tensor<float>(Shape<2>{tokens, k}, 3));
  auto const host_x = random_tensor<bf16>(Shape<2>{tokens, D}, 1);
  struct Results {
    Tensor<bf16, 2> gathered, combined, d_x, d_gathered;
    Tensor<float, 2> d_weights;
  };
  /// Matrices whose columns are `column` elements apart and whose rows begin `offset` elements into their memory.
  auto const run = [&](Index column, Index offset) {
    auto const matrix = [&](auto& memory, Index count) {
      return View<bf16, 2>{memory.data() + offset, Shape<2>{count, D}, Shape<2>{D * column + 3 * (column - 1), column}};
    };
    auto const memory = [&](Index count) {
      DeviceTensor<bf16, 1> out{ctx, Shape<1>{count * (D + 3) * column + offset}};
      detail::check_cuda(cudaMemsetAsync(out.data(), 0, static_cast<std::size_t>(out.size()) * 2, ctx.stream()), "cudaMemsetAsync");
      return out;
    };
    Tensor<bf16, 1> laid{Shape<1>{tokens * (D + 3) * column + offset}};
    auto const host = matrix(laid, tokens);
    for (Index t = 0; t < tokens; ++t)
      for (Index d = 0; d < D; ++d) host(t, d) = host_x(t, d);
    auto const x = to_device(ctx, laid);
    auto const gathered = memory(rows), combined = memory(tokens), d_x = memory(rows), d_gathered = memory(tokens);
    DeviceTensor<float, 2> const d_weights{ctx, Shape<2>{tokens, k}};
    gather_tokens(ctx, GatherArgs<bf16>{.x = matrix(x, tokens), .order = order.view(), .slots = k, .y = matrix(gathered, rows)});
    combine(ctx,
            CombineArgs<bf16>{
                .x = matrix(gathered, rows), .places = places.view(), .weights = weights.view(), .y = matrix(combined, tokens)});
    combine_backward(ctx, CombineBackwardArgs<bf16>{.x = matrix(gathered, rows),
                                                    .places = places.view(),
                                                    .weights = weights.view(),
                                                    .d_y = matrix(combined, tokens),
                                                    .d_x = matrix(d_x, rows),
                                                    .d_weights = d_weights});
    gather_tokens_backward(
        ctx, GatherBackwardArgs<bf16>{.places = places.view(), .d_y = matrix(d_x, rows), .d_x = matrix(d_gathered, tokens)});
    auto const back = [&](auto const& from, Index count) {
      auto const all = to_host(ctx, from);
      return converted<bf16>(View<bf16 const, 2>{all.data() + offset, matrix(from, count).shape(), matrix(from, count).strides()});
    };
    return Results{back(gathered, rows), back(combined, tokens), back(d_x, rows), back(d_gathered, tokens),
                   to_host(ctx, d_weights)};
  };
  auto const expected = run(1, 0);
  for (auto const& got : {run(1, 1), run(3, 0), run(2, 5)}) {
    CHECK(same_bits(got.gathered, expected.gathered));
    CHECK(same_bits(got.combined, expected.combined));
    CHECK(same_bits(got.d_x, expected.d_x));
    CHECK(same_bits(got.d_gathered, expected.d_gathered));
    CHECK(same_bits(got.d_weights, expected.d_weights));
  }
}

GPU_TEST("dispatch on a GPU: what is outside is told at the next wait, and taken as dropped") {
  Cuda const ctx;
  for (Index tokens : {40, 9000}) {
    auto experts = random_experts(tokens, 2, 4, 0, 0);
    experts(7, 1) = 4, experts(tokens - 1, 0) = -2;
    auto const there = to_device(ctx, experts), limited = to_device(ctx, experts);
    auto tolerated = experts.clone();
    tolerated(7, 1) = -1, tolerated(tokens - 1, 0) = -1;
    auto const expected = on_host(tolerated, 4);
    DeviceTensor<Index, 1> const offsets{ctx, Shape<1>{5}}, order{ctx, Shape<1>{2 * tokens}};
    DeviceTensor<Index, 2> const places{ctx, experts.shape()};
    dispatch(ctx, DispatchArgs{.experts = there.view(), .offsets = offsets, .order = order, .places = places});
    CHECK_THROWS_WITH_AS(ctx.synchronize(), "dispatch: the expert of assignment 15 is 4, outside -1 to E - 1", value_error);
    CHECK(same_bits(to_host(ctx, offsets), expected.offsets));
    CHECK(same_bits(to_host(ctx, order), expected.order));
    CHECK(same_bits(to_host(ctx, places), expected.places));
    auto const load = to_device(ctx, Tensor<Index, 1>{Shape<1>{4}});
    expert_load(ctx, ExpertLoadArgs{.experts = there.view(), .load = load});
    CHECK_THROWS_WITH_AS(ctx.synchronize(), "expert_load: the expert of assignment 15 is 4, outside -1 to E - 1", value_error);
    limit_capacity(ctx, LimitCapacityArgs{.experts = limited, .n_experts = 4, .capacity = tokens});
    CHECK_THROWS_WITH_AS(ctx.synchronize(), "limit_capacity: the expert of assignment 15 is 4, outside -1 to E - 1", value_error);
    CHECK(to_host(ctx, limited)(7, 1) == -1);
  }
  Tensor<Index, 1> order{Shape<1>{3}};
  order(0) = 2, order(1) = 3, order(2) = -1;
  auto const order_there = to_device(ctx, order);
  auto const places = order_there.view().reshaped(Shape<2>{3, 1});
  auto const x = to_device(ctx, random_tensor<float>(Shape<2>{3, 5}, 1)),
             y = to_device(ctx, random_tensor<float>(Shape<2>{3, 5}, 2));
  auto const weights = to_device(ctx, random_tensor<float>(Shape<2>{3, 1}, 2));
  auto const before = to_host(ctx, y), host_x = to_host(ctx, x);
  gather_tokens(ctx, GatherArgs<float>{.x = x.view(), .order = order_there.view(), .y = y});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "gather_tokens: order[1] is 3, outside -1 to the last assignment", value_error);
  auto const gathered = to_host(ctx, y);
  for (Index d = 0; d < 5; ++d) {
    CHECK(gathered(0, d) == host_x(2, d));
    CHECK(gathered(1, d) == before(1, d));
    CHECK(gathered(2, d) == before(2, d));
  }
  combine(ctx, CombineArgs<float>{.x = x.view(), .places = places, .weights = weights.view(), .y = y});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "combine: the place of assignment 1 is 3, outside -1 to the last place", value_error);
  CHECK(to_host(ctx, y)(1, 4) == 0);
  gather_tokens_backward(ctx, GatherBackwardArgs<float>{.places = places, .d_y = x.view(), .d_x = y});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "gather_tokens_backward: the place of assignment 1 is 3, outside -1 to the last place",
                       value_error);
  combine_backward(
      ctx, CombineBackwardArgs<float>{.x = x.view(), .places = places, .weights = weights.view(), .d_y = x.view(), .d_x = y});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "combine_backward: the place of assignment 1 is 3, outside -1 to the last place",
                       value_error);
  ctx.synchronize();
}

GPU_TEST("dispatch on a GPU: both ends of a layer give the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  Index const tokens = 5000, k = 2, D = 136, E = 8;
  auto const experts = to_device(ctx, random_experts(tokens, k, E, 1, 1));
  auto const x = to_device(ctx, random_tensor<bf16>(Shape<2>{tokens, D}, 1));
  auto const weights = to_device(ctx, random_tensor<float>(Shape<2>{tokens, k}, 2));
  auto const offsets = to_device(ctx, Tensor<Index, 1>{Shape<1>{E + 1}});
  auto const order = to_device(ctx, Tensor<Index, 1>{Shape<1>{tokens * k}});
  auto const places = to_device(ctx, Tensor<Index, 2>{Shape<2>{tokens, k}});
  auto const rows = to_device(ctx, Tensor<bf16, 2>{Shape<2>{tokens * k, D}});
  auto const y = to_device(ctx, Tensor<bf16, 2>{Shape<2>{tokens, D}}), d_x = to_device(ctx, Tensor<bf16, 2>{Shape<2>{tokens, D}});
  auto const d_weights = to_device(ctx, Tensor<float, 2>{Shape<2>{tokens, k}});
  auto const run = [&] {
    dispatch(ctx, DispatchArgs{.experts = experts.view(), .offsets = offsets, .order = order, .places = places});
    gather_tokens(ctx, GatherArgs<bf16>{.x = x.view(), .order = order.view(), .slots = k, .y = rows});
    combine(ctx, CombineArgs<bf16>{.x = rows.view(), .places = places.view(), .weights = weights.view(), .y = y});
    combine_backward(ctx, CombineBackwardArgs<bf16>{.x = rows.view(),
                                                    .places = places.view(),
                                                    .weights = weights.view(),
                                                    .d_y = y.view(),
                                                    .d_x = rows,
                                                    .d_weights = d_weights});
    gather_tokens_backward(ctx, GatherBackwardArgs<bf16>{.places = places.view(), .d_y = rows.view(), .d_x = d_x});
  };
  auto const reset = [&] { test::poison(ctx, y), test::poison(ctx, d_x), test::poison(ctx, d_weights), test::poison(ctx, order); };
  test::expect_repeatable(ctx, reset, run, y, d_x, d_weights, order);
}

GPU_TEST_WITH(10, "gather and combine on a GPU: matrices of more than 2^31 elements, row by row") {
  Cuda const ctx;
  Index const rows = 1'900'000, D = 1152;
  DeviceTensor<bf16, 2> const x{ctx, Shape<2>{rows, D}}, y{ctx, Shape<2>{rows, D}};
  DeviceTensor<Index, 1> const order{ctx, Shape<1>{rows}};
  DeviceTensor<float, 2> const ones{ctx, Shape<2>{rows, 1}};
  auto const wrong = to_device(ctx, Tensor<unsigned, 1>{Shape<1>{1}});
  fill_elements<<<4096, 256, 0, ctx.stream()>>>(x);
  reverse<<<1024, 256, 0, ctx.stream()>>>(order);
  fill_ones<<<1024, 256, 0, ctx.stream()>>>(ones);
  gather_tokens(ctx, GatherArgs<bf16>{.x = x.view(), .order = order.view(), .y = y});
  count_wrong<<<4096, 256, 0, ctx.stream()>>>(y.view(), true, wrong.data());
  // The reversal is its own inverse: its order is its places, and twice gives the rows back.
  auto const places = order.view().reshaped(Shape<2>{rows, 1});
  detail::check_cuda(cudaMemsetAsync(x.data(), 0, static_cast<std::size_t>(x.size()) * 2, ctx.stream()), "cudaMemsetAsync");
  combine(ctx, CombineArgs<bf16>{.x = y.view(), .places = places, .weights = ones.view(), .y = x});
  count_wrong<<<4096, 256, 0, ctx.stream()>>>(x.view(), false, wrong.data());
  combine_backward(ctx,
                   CombineBackwardArgs<bf16>{.x = y.view(), .places = places, .weights = ones.view(), .d_y = x.view(), .d_x = y});
  count_wrong<<<4096, 256, 0, ctx.stream()>>>(y.view(), true, wrong.data());
  CHECK(to_host(ctx, wrong)(0) == 0);
}
