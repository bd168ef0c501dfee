#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/route.hpp>

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

template <class A>
struct Planned {
  Tensor<A, 2> plan;
  SinkhornReport report;
  Tensor<A, 1> potentials;
};

template <class T>
Planned<accumulator_t<T>> published(Cuda const& ctx, Tensor<T, 2> const& logits, SinkhornArgs<T> args) {
  auto const there = to_device(ctx, logits);
  DeviceTensor<accumulator_t<T>, 2> const plan{ctx, logits.shape()};
  DeviceTensor<SinkhornReport, 1> const report{ctx, Shape<1>{1}};
  args.logits = there.view(), args.plan = plan, args.report = report;
  sinkhorn(ctx, args);
  return {to_host(ctx, plan), to_host(ctx, report)(0), {}};
}

/// \param g  potentials to start from
template <class T>
Planned<accumulator_t<T>> in_logs(Cuda const& ctx, Tensor<T, 2> const& logits, SinkhornLogArgs<T> args,
                                  Tensor<accumulator_t<T>, 1> const* g = nullptr) {
  using A = accumulator_t<T>;
  auto const there = to_device(ctx, logits);
  DeviceTensor<A, 2> const plan{ctx, logits.shape()};
  DeviceTensor<SinkhornReport, 1> const report{ctx, Shape<1>{1}};
  auto const potentials = to_device(ctx, g ? g->clone() : Tensor<A, 1>{Shape<1>{logits.extent(1)}});
  args.logits = there.view(), args.plan = plan, args.report = report, args.potentials = potentials;
  sinkhorn_log(ctx, args);
  return {to_host(ctx, plan), to_host(ctx, report)(0), to_host(ctx, potentials)};
}

/// From the plan alone, in more digits.
template <class A>
double marginal_error(Tensor<A, 2> const& plan) {
  Index const tokens = plan.extent(0), E = plan.extent(1);
  double worst = 0;
  std::vector<double> columns(static_cast<std::size_t>(E));
  for (Index i = 0; i < tokens; ++i) {
    double row = 0;
    for (Index j = 0; j < E; ++j)
      row += static_cast<double>(plan(i, j)), columns[static_cast<std::size_t>(j)] += static_cast<double>(plan(i, j));
    worst = std::max(worst, std::fabs(row * static_cast<double>(tokens) - 1));
  }
  for (double column : columns) worst = std::max(worst, std::fabs(column * static_cast<double>(E) - 1));
  return worst;
}

/// The relative rounding of a sum over all tokens or all experts.
template <class A>
double resolution(Index tokens, Index E) {
  return verify::allowed_error<A>(verify::Cost{.terms = static_cast<double>(tokens + E)}, 1, 1);
}

std::vector<verify::SinkhornSize> sizes(bool many) {
  std::vector<verify::SinkhornSize> out;
  for (Index tokens : {1, 2, 63, 700, 2501})
    for (Index E : {1, 2, 7, 8, 9, 33, 64, 65, 256, 257, 300})
      if (tokens * E < 200'000) out.push_back({tokens, E});
  // The largest of a cluster; a grid; tokens that are read again.
  if (many)
    for (auto const size : {verify::SinkhornSize{16384, 8}, {16385, 8}, {150'001, 8}, {5000, 100}, {300'000, 3}})
      out.push_back(size);
  return out;
}

}  // namespace

GPU_TEST_TEMPLATE("sinkhorn on a GPU: both forms agree with the double reference, whatever the shape", T, float, double, Half,
                  bf16) {
  Cuda const ctx;
  expect_right(verify::check<verify::SinkhornProblem, T>(ctx));
  expect_right(verify::check<verify::SinkhornLogProblem, T>(ctx));
  bool const many = std::is_same_v<T, float>;
  expect_right(verify::check<verify::SinkhornProblem, T>(ctx, {}, sizes(many)));
  expect_right(verify::check<verify::SinkhornLogProblem, T>(ctx, {}, sizes(many)));
}

GPU_TEST("sinkhorn on a GPU: a few sizes reach every form of its kernels") {
  Cuda const ctx;
  std::vector<verify::SinkhornSize> const few{{63, 8}, {2501, 8}, {16385, 8}, {700, 33}, {5000, 65}, {300, 300}};
  expect_right(verify::check<verify::SinkhornProblem, float>(ctx, {}, few));
  expect_right(verify::check<verify::SinkhornLogProblem, float>(ctx, {}, few));
}

GPU_TEST_TEMPLATE("sinkhorn on a GPU: the report is of the plan as written, and says what the reference's says", T, float, double) {
  Cuda const ctx;
  for (Index tokens : {1, 40, 3000, 20000})
    for (Index E : {1, 8, 40, 260}) {
      if (tokens * E > 1'000'000) continue;
      INFO(concat("tokens ", tokens, ", E ", E));
      auto const logits = random_tensor<T>(Shape<2>{tokens, E}, 5);
      for (auto const start : {SinkhornStart::column_sums, SinkhornStart::ones}) {
        Tensor<T, 2> plan{logits.shape()};
        SinkhornArgs<T> args{.logits = logits, .plan = plan, .tolerance = 1e-3, .max_iterations = 30, .start = start};
        auto const expected = sinkhorn(Reference{}, args);
        auto const got = published(ctx, logits, args);
        CHECK(got.report.iterations == expected.iterations);
        CHECK(got.report.converged == expected.converged);
        CHECK(std::fabs(got.report.marginal_error - marginal_error(got.plan)) <= resolution<T>(tokens, E));
        args.tolerance = 0, args.max_iterations = 3;
        CHECK(published(ctx, logits, args).report.iterations <= 3);
      }
      SinkhornLogArgs<T> args{.tolerance = 1e-3, .max_iterations = 200};
      auto const cold = in_logs(ctx, logits, args);
      CHECK(cold.report.converged);
      CHECK(cold.report.marginal_error <= 1e-3);
      CHECK(std::fabs(cold.report.marginal_error - marginal_error(cold.plan)) <= resolution<T>(tokens, E));
      // Potentials that are right need one iteration, and stay; capped, the report says that it has not converged.
      auto const again = in_logs(ctx, logits, args, &cold.potentials);
      CHECK(again.report.iterations == 1);
      CHECK(same_bits(again.plan, cold.plan));
      CHECK(same_bits(again.potentials, cold.potentials));
      if (cold.report.iterations > 1) {
        args.max_iterations = 1;
        CHECK(!in_logs(ctx, logits, args).report.converged);
      }
    }
  auto const none = published(ctx, Tensor<T, 2>{Shape<2>{0, 4}}, {});
  CHECK((none.report.converged && none.report.iterations == 0));
  auto const none_in_logs = in_logs(ctx, Tensor<T, 2>{Shape<2>{0, 4}}, {});
  CHECK((none_in_logs.report.converged && none_in_logs.report.iterations == 0));
}

GPU_TEST("sinkhorn_log on a GPU: logits far beyond the range of the exponential have a plan") {
  Cuda const ctx;
  for (Index tokens : {64, 5000, 20000})
    for (Index E : {8, 100, 260}) {
      if (tokens * E > 1'000'000) continue;
      INFO(concat("tokens ", tokens, ", E ", E));
      // One expert is 3000 below the others: from potentials of zero its column underflows.
      auto logits = random_tensor<float>(Shape<2>{tokens, E}, 9);
      for (Index i = 0; i < tokens; ++i) logits(i, 3) -= 3000;
      auto const got = in_logs(ctx, logits, SinkhornLogArgs<float>{.tolerance = 1e-2, .max_iterations = 200});
      CHECK(got.report.converged);
      CHECK(marginal_error(got.plan) <= 1.1e-2);
    }
}

GPU_TEST("sinkhorn on a GPU: what has no plan is told at the next wait, and the context goes on") {
  Cuda const ctx;
  for (Index tokens : {9, 3000, 20000})
    for (Index E : {8, 300}) {
      if (tokens * E > 1'000'000) continue;
      INFO(concat("tokens ", tokens, ", E ", E));
      auto const good = random_tensor<float>(Shape<2>{tokens, E}, 1);
      for (float bad : {HUGE_VALF, -HUGE_VALF, NAN}) {
        auto logits = good.clone();
        logits(5, 2) = bad, logits(7, 1) = bad;
        CHECK_THROWS_WITH_AS(published(ctx, logits, {}), "sinkhorn: the logits of token 5 are not all finite", value_error);
        CHECK_THROWS_WITH_AS(in_logs(ctx, logits, {}), "sinkhorn_log: the logits of token 5 are not all finite", value_error);
      }
      auto wide = good.clone();
      for (Index i = 0; i < tokens; ++i) wide(i, 1) = -200;
      CHECK_THROWS_WITH_AS(
          published(ctx, wide, {}),
          "sinkhorn: exp(s x) of expert 1 has no sum: the logits are beyond the range of this form, use sinkhorn_log", value_error);
      wide(6, 1) = 3e38f;
      CHECK_THROWS_WITH_AS(in_logs(ctx, wide, {}),
                           "sinkhorn_log: the logits of token 6, with their sharpness, are too large for the accumulator",
                           value_error);
      Tensor<float, 1> g{Shape<1>{E}};
      g(4) = NAN;
      CHECK_THROWS_WITH_AS(in_logs(ctx, good, {}, &g), "sinkhorn_log: the potential of expert 4 is not finite", value_error);
      CHECK(published(ctx, good, {}).report.converged);
    }
}

GPU_TEST("sinkhorn on a GPU: strides, a plan in the place of the logits, a second run and a graph change no bit") {
  Cuda const ctx;
  for (Index tokens : {200, 4100, 16384, 40000})
    for (Index E : {8, 12, 72}) {
      if (tokens * E > 1'000'000) continue;
      INFO(concat("tokens ", tokens, ", E ", E));
      auto const logits = random_tensor<float>(Shape<2>{tokens, E}, 3);
      SinkhornArgs<float> args{.tolerance = 0, .max_iterations = 4};
      SinkhornLogArgs<float> log_args{.tolerance = 0, .max_iterations = 4};
      auto const expected = published(ctx, logits, args);
      auto const expected_log = in_logs(ctx, logits, log_args);
      CHECK(same_bits(published(ctx, logits, args).plan, expected.plan));
      CHECK(same_bits(in_logs(ctx, logits, log_args).plan, expected_log.plan));

      auto const in_place = to_device(ctx, logits), in_place_log = to_device(ctx, logits);
      auto const there = to_device(ctx, logits);
      auto const reset = [&] {
        copy_within(ctx, there.view(), in_place.view());
        copy_within(ctx, there.view(), in_place_log.view());
      };
      args.logits = in_place.view(), args.plan = in_place;
      log_args.logits = in_place_log.view(), log_args.plan = in_place_log;
      auto const run = [&] { sinkhorn(ctx, args), sinkhorn_log(ctx, log_args); };
      auto const expect_same = [&] {
        CHECK(same_bits(to_host(ctx, in_place), expected.plan));
        CHECK(same_bits(to_host(ctx, in_place_log), expected_log.plan));
      };
      run();
      expect_same();
      test::Graph const graph{ctx, run};
      for (int i = 0; i < 2; ++i) {
        reset();
        graph.replay();
        expect_same();
      }

      Tensor<float, 2> turned{Shape<2>{E, tokens}};
      for (Index i = 0; i < tokens; ++i)
        for (Index j = 0; j < E; ++j) turned(j, i) = logits(i, j);
      auto const turned_there = to_device(ctx, turned);
      DeviceTensor<float, 2> const plan{ctx, turned.shape()}, log_plan{ctx, turned.shape()};
      args.logits = turned_there.view().transposed(0, 1), args.plan = plan.view().transposed(0, 1);
      log_args.logits = args.logits, log_args.plan = log_plan.view().transposed(0, 1);
      run();
      auto const by_expert = to_host(ctx, plan), by_expert_log = to_host(ctx, log_plan);
      CHECK(same_bits(converted<float>(by_expert.view().transposed(0, 1)), expected.plan));
      CHECK(same_bits(converted<float>(by_expert_log.view().transposed(0, 1)), expected_log.plan));
    }
}

GPU_TEST("sinkhorn on a GPU: a token's expert is the reference's, but where two entries are equal up to rounding") {
  Cuda const ctx;
  Index const tokens = 2048, E = 8;
  Index chosen = 0, other = 0, other_log = 0;
  double widest = 0;
  auto const best = [&](Tensor<float, 2> const& plan, Index i) {
    Index at = 0;
    for (Index j = 1; j < E; ++j)
      if (plan(i, j) > plan(i, at)) at = j;
    return at;
  };
  auto const compare = [&](Tensor<float, 2> const& got, Tensor<float, 2> const& expected, Index& differ) {
    for (Index i = 0; i < tokens; ++i) {
      Index const mine = best(got, i), theirs = best(expected, i);
      if (mine == theirs) continue;
      ++differ;
      widest = std::max(widest, 1 - static_cast<double>(expected(i, mine)) / static_cast<double>(expected(i, theirs)));
    }
  };
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    auto const logits = random_tensor<float>(Shape<2>{tokens, E}, seed);
    Tensor<float, 2> plan{logits.shape()};
    SinkhornArgs<float> args{.logits = logits, .plan = plan};
    sinkhorn(Reference{}, args);
    compare(published(ctx, logits, args).plan, plan, other);
    SinkhornLogArgs<float> log_args{.logits = logits, .plan = plan, .tolerance = 1e-3};
    sinkhorn_log(Reference{}, log_args);
    compare(in_logs(ctx, logits, log_args).plan, plan, other_log);
    chosen += tokens;
  }
  MESSAGE("of " << chosen << " tokens, " << other << " have another expert by the published form, " << other_log
                << " by the form on logarithms; their entries differ by at most a share of " << widest);
  CHECK(widest <= 20 * resolution<float>(tokens, E));
}
