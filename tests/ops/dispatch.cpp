#include <blackmamba/ops/dispatch/dispatch.hpp>

#include <algorithm>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

struct Sorted {
  Tensor<Index, 1> offsets, order;
  Tensor<Index, 2> places;
};

template <class Ctx>
Sorted sorted(Ctx const& ctx, View<int const, 2> experts, Index E) {
  Sorted out{Tensor<Index, 1>{Shape{E + 1}}, Tensor<Index, 1>{Shape{experts.size()}}, Tensor<Index, 2>{experts.shape()}};
  dispatch(ctx, DispatchArgs{.experts = experts, .offsets = out.offsets, .order = out.order, .places = out.places});
  return out;
}

/// Experts at random; with `drops` about one assignment in four is dropped.
Tensor<int, 2> random_experts(Index tokens, Index k, Index E, bool drops) {
  Tensor<int, 2> out{Shape{tokens, k}};
  Random const random{11};
  for (Index i = 0; i < out.size(); ++i) {
    auto const at = static_cast<std::uint64_t>(i);
    out.data()[i] = E == 0 || (drops && random.below(2 * at, 4) == 0) ? -1 : static_cast<int>(random.below(2 * at + 1, E));
  }
  return out;
}

}  // namespace

TEST_CASE("dispatch: offsets are the prefix sums of the counts, order is stable, places are its inverse") {
  for (Index tokens : {0, 1, 5, 64, 333})
    for (Index k : {1, 2, 3})
      for (Index E : {0, 1, 2, 7, 8})
        for (bool drops : {false, true}) {
          INFO(concat("tokens ", tokens, ", k ", k, ", E ", E, ", drops ", drops));
          auto const experts = random_experts(tokens, k, E, drops);
          auto const out = sorted(Reference{}, experts, E);
          auto const on_cpu = sorted(Cpu{2}, experts, E);
          CHECK(std::equal(out.order.begin(), out.order.end(), on_cpu.order.begin()));
          Index sum = 0;
          for (Index e = 0; e < E; ++e) {
            CHECK(out.offsets(e) == sum);
            sum += std::count(experts.begin(), experts.end(), static_cast<int>(e));
          }
          CHECK(out.offsets(E) == sum);
          for (Index e = 0; e < E; ++e)
            for (Index p = out.offsets(e); p < out.offsets(e + 1); ++p) {
              CHECK(experts.data()[out.order(p)] == e);
              CHECK(out.places.data()[out.order(p)] == p);
              if (p > out.offsets(e)) CHECK(out.order(p) > out.order(p - 1));
            }
          for (Index p = sum; p < tokens * k; ++p) CHECK(out.order(p) == -1);
          for (Index i = 0; i < experts.size(); ++i) CHECK((out.places.data()[i] == -1) == (experts.data()[i] == -1));
        }
}

TEST_CASE_TEMPLATE("dispatch: gather then combine with unit weights is the identity for one slot", T, float, double, half, bf16,
                   Dual<double>) {
  using A = accumulator_t<T>;
  auto const check = [](auto const& ctx, Index tokens, Index D, bool drops) {
    INFO(concat("tokens ", tokens, ", D ", D, ", drops ", drops));
    auto const x = test::random_tensor<T>(Shape{tokens, D}, 1);
    auto const experts = random_experts(tokens, 1, 4, drops);
    auto const places = sorted(ctx, experts, 4);
    Tensor<T, 2> by_place{x.shape()}, y{x.shape()};
    Tensor<A, 2> weights{experts.shape()};
    for (A& w : weights) w = A(1);
    // Rows that no assignment has must be neither written nor read.
    for (T& value : by_place) value = static_cast<T>(A(HUGE_VALF));
    gather_tokens(ctx, GatherArgs<T>{.x = x, .order = places.order, .y = by_place});
    for (Index p = places.offsets(4); p < tokens; ++p)
      for (Index d = 0; d < D; ++d) CHECK(widen(by_place(p, d)) == A(HUGE_VALF));
    for (T& value : y) value = static_cast<T>(A(5));
    combine(ctx, CombineArgs<T>{.x = by_place, .places = places.places, .weights = weights, .y = y});
    for (Index t = 0; t < tokens; ++t)
      for (Index d = 0; d < D; ++d) CHECK(widen(y(t, d)) == (experts(t, 0) < 0 ? A(0) : widen(x(t, d))));
  };
  for (Index tokens : {0, 1, 37})
    for (Index D : {0, 1, 7, 8, 9, 31})
      for (bool drops : {false, true}) {
        check(Reference{}, tokens, D, drops);
        check(Cpu{1}, tokens, D, drops);
        check(Cpu{2}, tokens, D, drops);
      }
}

TEST_CASE_TEMPLATE("combine: slots add up in order within the table, the same bits with one thread and two", T, float, double, half,
                   bf16) {
  using A = accumulator_t<T>;
  for (Index D : {1, 8, 13, 200}) {
    Index const tokens = 150, k = 3, E = 5;
    auto const experts = random_experts(tokens, k, E, true);
    auto const places = sorted(Reference{}, experts, E);
    auto const x = test::random_tensor<T>(Shape{tokens * k, D}, 1);
    auto const weights = test::random_tensor<A>(Shape{tokens, k}, 2);
    auto const x_exact = converted<double>(x), weights_exact = converted<double>(weights);
    Tensor<double, 2> expected{Shape{tokens, D}};
    combine(Reference{}, CombineArgs<double>{.x = x_exact, .places = places.places, .weights = weights_exact, .y = expected});
    Tensor<T, 2> plain{expected.shape()}, one{expected.shape()}, two{expected.shape()};
    auto const run = [&](auto const& ctx, View<T, 2> y) {
      combine(ctx, CombineArgs<T>{.x = x, .places = places.places, .weights = weights, .y = y});
      CHECK_CLOSE(verify::compare(y, expected.view(), verify::Cost{.terms = static_cast<double>(k)}));
    };
    run(Reference{}, plain), run(Cpu{1}, one), run(Cpu{2}, two);
    for (Index i = 0; i < one.size(); ++i) CHECK(widen(one.data()[i]) == widen(two.data()[i]));
  }
}

TEST_CASE("gather_tokens: each token lies at the places of all its slots, through any strides") {
  Index const tokens = 9, k = 2, D = 5;
  auto const experts = random_experts(tokens, k, 3, false);
  auto const places = sorted(Cpu{2}, experts, 3);
  auto const columns = test::random_tensor<float>(Shape{D, tokens}, 1);
  auto const x = View<float const, 2>{columns}.transposed(0, 1);
  Tensor<float, 2> y{Shape{tokens * k, 2 * D}};
  gather_tokens(Cpu{2}, GatherArgs<float>{.x = x, .order = places.order, .slots = k, .y = y.view().slice(1, D, D)});
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s)
      for (Index d = 0; d < D; ++d) CHECK(y(places.places(t, s), D + d) == x(t, d));

  Tensor<float, 2> weights{Shape{tokens, k}}, back{Shape{D, tokens}};
  for (Index t = 0; t < tokens; ++t) weights(t, 0) = 0.25f, weights(t, 1) = 0.75f;
  combine(Cpu{2},
          CombineArgs<float>{
              .x = y.view().slice(1, D, D), .places = places.places, .weights = weights, .y = back.view().transposed(0, 1)});
  CHECK_CLOSE(verify::compare(back.view(), columns.view(), verify::Cost{.terms = 2}));
}

TEST_CASE("combine: dual numbers carry the derivatives of weights and values") {
  using D = Dual<double>;
  Tensor<D, 2> x{Shape{Index{2}, Index{1}}}, weights{Shape{Index{1}, Index{2}}}, y{Shape{Index{1}, Index{1}}};
  Tensor<Index, 2> places{Shape{Index{1}, Index{2}}};
  x(0, 0) = D{3, 0.5}, x(1, 0) = D{-2, 0.25};
  weights(0, 0) = D{7, 1}, weights(0, 1) = D{5, 2};
  places(0, 0) = 1, places(0, 1) = 0;
  combine(Reference{}, CombineArgs<D>{.x = x, .places = places, .weights = weights, .y = y});
  CHECK(y(0, 0).value == 7 * -2 + 5 * 3);
  CHECK(y(0, 0).tangent == 1 * -2 + 7 * 0.25 + 2 * 3 + 5 * 0.5);
}

TEST_CASE("dispatch: numbers outside their range and extents that disagree are refused with their values") {
  Tensor<int, 2> experts{Shape{Index{2}, Index{2}}};
  Tensor<Index, 1> offsets{Shape{Index{4}}}, order{Shape{Index{4}}}, none;
  Tensor<Index, 2> places{Shape{Index{2}, Index{2}}};
  auto const args = DispatchArgs{.experts = experts, .offsets = offsets, .order = order, .places = places};
  order(0) = 77;
  experts(1, 0) = 3;
  CHECK_THROWS_WITH_AS(dispatch(Cpu{2}, args), "dispatch: the expert of token 1, slot 0 is 3, outside -1 to 2", value_error);
  experts(1, 0) = -2;
  CHECK_THROWS_WITH_AS(dispatch(Cpu{2}, args), "dispatch: the expert of token 1, slot 0 is -2, outside -1 to 2", value_error);
  CHECK(order(0) == 77);
  CHECK_THROWS_WITH_AS(dispatch(Cpu{2}, DispatchArgs{.experts = experts, .offsets = none, .order = order, .places = places}),
                       "dispatch: offsets has length 0, not the number of experts + 1", value_error);
  CHECK_THROWS_WITH_AS(
      dispatch(Cpu{2},
               DispatchArgs{.experts = experts, .offsets = offsets, .order = offsets.view().slice(0, 0, 3), .places = places}),
      "dispatch: order has shape (3,), experts asks for (4,): extent 0 is 3, not 4", shape_error);

  Tensor<float, 2> x{Shape{Index{2}, Index{3}}}, y{Shape{Index{4}, Index{3}}}, weights{Shape{Index{2}, Index{2}}};
  order(3) = 4;
  for (Index p = 0; p < 3; ++p) order(p) = p;
  CHECK_THROWS_WITH_AS(gather_tokens(Cpu{2}, GatherArgs<float>{.x = x, .order = order, .slots = 2, .y = y}),
                       "gather_tokens: order[3] is 4, outside -1 to 3", value_error);
  CHECK_THROWS_WITH_AS(gather_tokens(Cpu{2}, GatherArgs<float>{.x = x, .order = order, .slots = 0, .y = y}),
                       "gather_tokens: slots is 0, not at least 1", value_error);
  CHECK_THROWS_AS(gather_tokens(Cpu{2}, GatherArgs<float>{.x = x, .order = order, .slots = 1, .y = y}), shape_error);
  places(1, 1) = 4;
  CHECK_THROWS_WITH_AS(combine(Cpu{2}, CombineArgs<float>{.x = y, .places = places, .weights = weights, .y = x}),
                       "combine: the place of token 1, slot 1 is 4, outside -1 to 3", value_error);
  CHECK_THROWS_AS(combine(Cpu{2}, CombineArgs<float>{.x = x, .places = places, .weights = weights, .y = x}), shape_error);
}
