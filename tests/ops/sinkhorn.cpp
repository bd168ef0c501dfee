#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

#include <algorithm>
#include <limits>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class A>
struct Planned {
  Tensor<A, 2> plan;
  SinkhornReport report;
};

template <class T, class Ctx>
Planned<accumulator_t<T>> published(Ctx const& ctx, View<T const, 2> logits, double tolerance = 1e-4, Index cap = 10000) {
  Planned<accumulator_t<T>> out{Tensor<accumulator_t<T>, 2>{logits.shape()}, {}};
  out.report = sinkhorn(ctx, SinkhornArgs<T>{.logits = logits, .plan = out.plan, .tolerance = tolerance, .max_iterations = cap});
  return out;
}

template <class T, class Ctx>
Planned<accumulator_t<T>> in_logs(Ctx const& ctx, View<T const, 2> logits, double tolerance = 1e-12, Index cap = 100) {
  Planned<accumulator_t<T>> out{Tensor<accumulator_t<T>, 2>{logits.shape()}, {}};
  out.report =
      sinkhorn_log(ctx, SinkhornLogArgs<T>{.logits = logits, .plan = out.plan, .tolerance = tolerance, .max_iterations = cap});
  return out;
}

/// From the plan alone, in more digits.
template <class A>
double marginal_error(Tensor<A, 2> const& plan) {
  Index const tokens = plan.extent(0), E = plan.extent(1);
  long double worst = 0;
  auto const wide = converted<double>(plan);
  for (Index i = 0; i < tokens; ++i) {
    long double sum = 0;
    for (Index j = 0; j < E; ++j) sum += wide(i, j);
    worst = std::max(worst, std::fabs(sum * static_cast<long double>(tokens) - 1));
  }
  for (Index j = 0; j < E && tokens > 0; ++j) {
    long double sum = 0;
    for (Index i = 0; i < tokens; ++i) sum += wide(i, j);
    worst = std::max(worst, std::fabs(sum * static_cast<long double>(E) - 1));
  }
  return static_cast<double>(worst);
}

/// The relative rounding of a sum over all tokens or all experts.
template <class A>
double resolution(Index tokens, Index E) {
  return verify::allowed_error<A>(verify::Cost{.terms = static_cast<double>(tokens + E)}, 1, 1);
}

/// Each of a fixed number of iterations rounds one sum over the experts and one over the tokens: that many more terms. The
/// potentials of logits of spread 2 have magnitude about 8, and that is by how much their rounding weighs more than that of 1.
template <class T, class Ctx>
void check(Ctx const& ctx, Index tokens, Index E) {
  using A = accumulator_t<T>;
  INFO(concat(Ctx::name, ", tokens ", tokens, ", E ", E));
  auto const logits = test::random_tensor<T>(Shape{tokens, E}, 1, 1);
  auto const exact = converted<double>(logits);
  Index const iterations = 6;
  double const terms = static_cast<double>(iterations * (tokens + E));
  verify::Cost const cost{.terms = terms};
  {
    auto const got = published<T>(ctx, logits, 0, iterations);
    auto const expected = published<double>(Reference{}, exact, 0, iterations);
    CHECK_CLOSE(verify::compare(got.plan.view(), expected.plan.view(), cost));
    CHECK(std::fabs(got.report.marginal_error - marginal_error(got.plan)) <= resolution<A>(tokens, E));
  }
  {
    auto const got = in_logs<T>(ctx, logits, 0, iterations);
    auto const expected = in_logs<double>(Reference{}, exact, 0, iterations);
    CHECK_CLOSE(verify::compare(got.plan.view(), expected.plan.view(), cost));
    CHECK(std::fabs(got.report.marginal_error - marginal_error(got.plan)) <= resolution<A>(tokens, E));
    CHECK(got.report.iterations <= iterations);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("sinkhorn: every scalar and shape agrees with the double reference on every context", T, float, double, half,
                   bf16) {
  for (Index tokens : {0, 1, 3, 7, 8, 9, 67, 2501})
    for (Index E : {1, 2, 7, 8, 9}) {
      check<T>(Reference{}, tokens, E);
      check<T>(Cpu{1}, tokens, E);
      check<T>(Cpu{2}, tokens, E);
    }
}

TEST_CASE_TEMPLATE("sinkhorn: one thread and two give the same bits", T, float, double) {
  auto const logits = test::random_tensor<T>(Shape{Index{4100}, Index{8}}, 2, 2);
  auto const one = published<T>(Cpu{1}, logits), two = published<T>(Cpu{2}, logits);
  CHECK(std::equal(one.plan.begin(), one.plan.end(), two.plan.begin()));
  auto const log_one = in_logs<T>(Cpu{1}, logits), log_two = in_logs<T>(Cpu{2}, logits);
  CHECK(std::equal(log_one.plan.begin(), log_one.plan.end(), log_two.plan.begin()));
  CHECK(log_one.report.iterations == log_two.report.iterations);
}

TEST_CASE("sinkhorn: the cap ends what the tolerance does not, and the report says so") {
  auto const logits = test::random_tensor<double>(Shape{Index{33}, Index{4}}, 3, 5);
  for (Index cap : {1, 2, 50}) {
    auto const capped = published<double>(Cpu{2}, logits, 0, cap);
    CHECK(!capped.report.converged);
    CHECK(capped.report.iterations == cap);
    auto const in_log = in_logs<double>(Cpu{2}, logits, 0, cap);
    CHECK(!in_log.report.converged);
    CHECK(in_log.report.iterations == cap);
  }
  auto const met = published<double>(Reference{}, logits);
  CHECK(met.report.converged);
  CHECK(met.report.iterations < 10000);
}

TEST_CASE("sinkhorn: from ones it is Megatron's iteration, and the sharpness multiplies the logits") {
  Index const tokens = 40, E = 5;
  auto const logits = test::random_tensor<double>(Shape{tokens, E}, 8);
  auto const run = [&](auto const& ctx, View<double const, 2> x, double sharpness, SinkhornStart start, double tolerance) {
    Planned<double> out{Tensor<double, 2>{x.shape()}, {}};
    out.report = sinkhorn(
        ctx, SinkhornArgs<double>{.logits = x, .plan = out.plan, .tolerance = tolerance, .sharpness = sharpness, .start = start});
    return out;
  };
  std::vector<double> rows(static_cast<std::size_t>(tokens)), columns(static_cast<std::size_t>(E), 1.0);
  Index iterations = 0;
  for (double change = 1; change > 1e-4; ++iterations) {
    for (Index i = 0; i < tokens; ++i) {
      double sum = 0;
      for (Index j = 0; j < E; ++j) sum += columns[static_cast<std::size_t>(j)] * std::exp(logits(i, j));
      rows[static_cast<std::size_t>(i)] = 1 / (static_cast<double>(tokens) * (sum + 1e-8));
    }
    change = 0;
    for (Index j = 0; j < E; ++j) {
      double sum = 0;
      for (Index i = 0; i < tokens; ++i) sum += rows[static_cast<std::size_t>(i)] * std::exp(logits(i, j));
      double const next = 1 / (static_cast<double>(E) * (sum + 1e-8));
      change += std::fabs(columns[static_cast<std::size_t>(j)] - next) / static_cast<double>(E);
      columns[static_cast<std::size_t>(j)] = next;
    }
  }
  Tensor<double, 2> expected{logits.shape()};
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j < E; ++j)
      expected(i, j) = columns[static_cast<std::size_t>(j)] * std::exp(logits(i, j)) * rows[static_cast<std::size_t>(i)];
  auto const check = [&](auto const& ctx) {
    auto const got = run(ctx, logits, 1, SinkhornStart::ones, 1e-4);
    CHECK(got.report.iterations == iterations);
    auto const cost = verify::Cost{.terms = static_cast<double>(iterations * (tokens + E))};
    CHECK_CLOSE(verify::compare(got.plan.view(), expected.view(), cost));
    // The start of the published BlackMamba meets the absolute tolerance sooner, and leaves the larger error.
    auto const published = run(ctx, logits, 1, SinkhornStart::column_sums, 1e-4);
    CHECK(published.report.iterations < iterations);
    CHECK(published.report.marginal_error > got.report.marginal_error);

    auto halves = logits.clone();
    for (double& x : halves) x /= 2;
    auto const a = run(ctx, halves, 2, SinkhornStart::ones, 1e-4);
    for (Index i = 0; i < a.plan.size(); ++i) CHECK(a.plan.data()[i] == got.plan.data()[i]);
  };
  check(Reference{});
  check(Cpu{2});
}

TEST_CASE("sinkhorn_log: with enough iterations every row sums to 1/tokens and every column to 1/E") {
  for (double spread : {0.1, 1.0, 3.0}) {
    Index const tokens = 200, E = 8;
    auto const logits = test::random_tensor<double>(Shape{tokens, E}, 4, spread);
    double const tolerance = resolution<double>(tokens, E);
    for (auto const& [plan, report] :
         {in_logs<double>(Reference{}, logits, tolerance, 20000), in_logs<double>(Cpu{2}, logits, tolerance, 20000)}) {
      CHECK(report.converged);
      CHECK(report.marginal_error <= tolerance);
      CHECK(marginal_error(plan) <= 2 * tolerance);
    }
  }
}

TEST_CASE_TEMPLATE("sinkhorn_log: logits of ±1e4 neither overflow nor give NaN, and each row sums to its share", T, float, double,
                   bf16) {
  using A = accumulator_t<T>;
  Index const tokens = 20, E = 4;
  auto const extreme = [&](int kind) {
    Tensor<T, 2> logits{Shape{tokens, E}};
    Random const random{5};
    for (Index i = 0; i < logits.size(); ++i) {
      bool const up = random.below(static_cast<std::uint64_t>(i), 2) == 1;
      double const x = kind == 0   ? (up ? 1e4 : -1e4)
                       : kind == 1 ? (i % E == 2 ? -1e4 : 1e4)
                                   : 1e4 * random.normal(static_cast<std::uint64_t>(i));
      logits.data()[i] = static_cast<T>(static_cast<A>(x));
    }
    return logits;
  };
  auto const holds = [&](auto const& ctx, int kind) {
    INFO(concat(std::remove_cvref_t<decltype(ctx)>::name, ", kind ", kind));
    auto const logits = extreme(kind);
    auto const [plan, report] = in_logs<T>(ctx, logits, 1e-3, 500);
    for (Index i = 0; i < tokens; ++i) {
      A sum{0};
      for (Index j = 0; j < E; ++j) {
        CHECK(plan(i, j) >= 0);
        sum += plan(i, j);
      }
      CHECK(std::fabs(static_cast<double>(sum) * static_cast<double>(tokens) - 1) <= resolution<A>(tokens, E));
    }
    CHECK(std::fabs(report.marginal_error - marginal_error(plan)) <= resolution<A>(tokens, E) * (1 + report.marginal_error));
    // An expert that no token prefers still gets its share: a constant column is only a shift of its potential.
    if (kind == 1) CHECK(report.converged);
  };
  for (int kind : {0, 1, 2}) {
    holds(Reference{}, kind);
    holds(Cpu{1}, kind);
    holds(Cpu{2}, kind);
  }
}

TEST_CASE_TEMPLATE("sinkhorn_log: a start from the potentials of the plan is already there", T, float, double) {
  Index const tokens = 300, E = 8;
  auto const logits = test::random_tensor<T>(Shape{tokens, E}, 6, 2);
  double const tolerance = 2 * resolution<T>(tokens, E) * 16;  // potentials of magnitude about 16 are rounded, too
  auto const warm = [&](auto const& ctx) {
    Tensor<T, 2> plan{logits.shape()}, again{logits.shape()};
    Tensor<T, 1> potentials{Shape{E}};
    SinkhornLogArgs<T> args{
        .logits = logits, .plan = plan, .tolerance = tolerance, .max_iterations = 1000, .potentials = potentials};
    auto const cold = sinkhorn_log(ctx, args);
    CHECK(cold.converged);
    CHECK(cold.iterations > 1);
    args.plan = again, args.tolerance = 2 * tolerance;
    auto const second = sinkhorn_log(ctx, args);
    CHECK(second.converged);
    CHECK(second.iterations == 1);
    verify::Cost const cost{.terms = static_cast<double>(tokens + E), .gain = 16};
    CHECK_CLOSE(verify::compare(again.view(), plan.view(), cost));
  };
  warm(Reference{});
  warm(Cpu{2});
}

TEST_CASE("sinkhorn_log: the sharpness multiplies the logits, and a sharpness of 0 gives the even plan") {
  auto const logits = test::random_tensor<double>(Shape{Index{50}, Index{5}}, 7);
  auto doubled = logits.clone();
  for (double& x : doubled) x *= 2;
  Tensor<double, 2> plan{logits.shape()}, same{logits.shape()};
  sinkhorn_log(Cpu{2}, SinkhornLogArgs<double>{.logits = logits, .plan = plan, .sharpness = 2});
  sinkhorn_log(Cpu{2}, SinkhornLogArgs<double>{.logits = doubled, .plan = same, .sharpness = 1});
  CHECK(std::equal(plan.begin(), plan.end(), same.begin()));
  auto const report = sinkhorn_log(Reference{}, SinkhornLogArgs<double>{.logits = logits, .plan = plan, .sharpness = 0});
  CHECK(report.iterations == 1);
  for (double p : plan) CHECK(p == doctest::Approx(1.0 / 250));
}

TEST_CASE("sinkhorn: one expert gets everything, no tokens are no work") {
  auto const logits = test::random_tensor<double>(Shape{Index{13}, Index{1}}, 8);
  for (auto const& [plan, report] : {in_logs<double>(Reference{}, logits), in_logs<double>(Cpu{2}, logits)}) {
    CHECK(report.converged);
    CHECK(report.iterations == 1);
    for (double p : plan) CHECK(p == doctest::Approx(1.0 / 13));
  }
  Tensor<double, 2> const none{Shape{Index{0}, Index{4}}}, nothing{Shape{Index{0}, Index{0}}};
  CHECK(published<double>(Cpu{2}, none).report.converged);
  CHECK(in_logs<double>(Cpu{2}, none).report.iterations == 0);
  CHECK(in_logs<double>(Reference{}, nothing).report.converged);
}

TEST_CASE("sinkhorn: strided logits and plans give the same values, and the plan may overwrite the logits") {
  auto const columns = test::random_tensor<double>(Shape{Index{6}, Index{40}}, 9);
  auto const logits = View<double const, 2>{columns}.transposed(0, 1);
  auto dense = converted<double>(logits);
  auto const check_ctx = [&](auto const& ctx) {
    auto const expected = published<double>(ctx, dense), expected_log = in_logs<double>(ctx, dense);
    auto both = columns.clone();
    auto const in_place = both.view().transposed(0, 1);
    sinkhorn(ctx, SinkhornArgs<double>{.logits = in_place, .plan = in_place});
    for (Index i = 0; i < 40; ++i)
      for (Index j = 0; j < 6; ++j) CHECK(in_place(i, j) == expected.plan(i, j));
    auto both_log = columns.clone();
    auto const in_place_log = both_log.view().transposed(0, 1);
    sinkhorn_log(ctx, SinkhornLogArgs<double>{.logits = in_place_log, .plan = in_place_log});
    for (Index i = 0; i < 40; ++i)
      for (Index j = 0; j < 6; ++j) CHECK(in_place_log(i, j) == expected_log.plan(i, j));
  };
  check_ctx(Reference{});
  check_ctx(Cpu{2});
}

TEST_CASE("sinkhorn: a report that is asked for is the one that is returned") {
  auto const logits = test::random_tensor<double>(Shape{Index{20}, Index{4}}, 3);
  Tensor<double, 2> plan{logits.shape()};
  Tensor<SinkhornReport, 1> report{Shape<1>{1}};
  auto const expect_same = [&](SinkhornReport const& returned) {
    CHECK(report(0).iterations == returned.iterations);
    CHECK(report(0).marginal_error == returned.marginal_error);
    CHECK(report(0).converged == returned.converged);
  };
  expect_same(sinkhorn(Cpu{2}, SinkhornArgs<double>{.logits = logits, .plan = plan, .report = report}));
  CHECK(report(0).iterations > 0);
  expect_same(sinkhorn_log(Reference{}, SinkhornLogArgs<double>{.logits = logits, .plan = plan, .report = report}));
  Tensor<double, 2> const nothing{Shape<2>{0, 4}};
  Tensor<double, 2> no_plan{Shape<2>{0, 4}};
  expect_same(sinkhorn(Reference{}, SinkhornArgs<double>{.logits = nothing, .plan = no_plan, .report = report}));
  CHECK((report(0).converged && report(0).iterations == 0));
  Tensor<SinkhornReport, 1> two{Shape<1>{2}};
  CHECK_THROWS_AS(sinkhorn(Reference{}, SinkhornArgs<double>{.logits = logits, .plan = plan, .report = two}), shape_error);
}

TEST_CASE("sinkhorn: dual numbers carry the derivative of the plan") {
  using D = Dual<double>;
  auto const at = test::random_tensor<double>(Shape{Index{6}, Index{3}}, 10);
  auto const along = test::random_tensor<double>(Shape{Index{6}, Index{3}}, 11);
  Tensor<D, 2> logits{at.shape()};
  for (Index i = 0; i < at.size(); ++i) logits.data()[i] = D{at.data()[i], along.data()[i]};
  auto const moved = [&](double step) {
    auto x = at.clone();
    for (Index i = 0; i < x.size(); ++i) x.data()[i] += step * along.data()[i];
    return x;
  };
  double const h = 0x1p-17;  // a central difference is then good to about h²
  auto const up = moved(h), down = moved(-h);
  auto const compare = [&](Tensor<D, 2> const& plan, Tensor<double, 2> const& above, Tensor<double, 2> const& below) {
    for (Index i = 0; i < plan.size(); ++i) {
      double const difference = (above.data()[i] - below.data()[i]) / (2 * h);
      CHECK(std::fabs(plan.data()[i].tangent - difference) <= h * h);
    }
  };
  compare(published<D>(Reference{}, logits, 0, 5).plan, published<double>(Reference{}, up, 0, 5).plan,
          published<double>(Reference{}, down, 0, 5).plan);
  compare(in_logs<D>(Reference{}, logits, 0, 5).plan, in_logs<double>(Reference{}, up, 0, 5).plan,
          in_logs<double>(Reference{}, down, 0, 5).plan);
}

TEST_CASE("sinkhorn: what has no plan is refused with its place and value") {
  Tensor<float, 2> logits{Shape{Index{3}, Index{2}}}, plan{Shape{Index{3}, Index{2}}}, wide{Shape{Index{3}, Index{4}}};
  Tensor<float, 1> potentials{Shape{Index{2}}};
  auto const on_both = [&](auto const& check_ctx) { check_ctx(Reference{}), check_ctx(Cpu{2}); };
  plan(0, 0) = 77;
  float const infinity = std::numeric_limits<float>::infinity();
  for (auto const& [bad, text] : {std::pair{infinity, "inf"}, std::pair{-infinity, "-inf"}, std::pair{std::nanf(""), "nan"}}) {
    logits(2, 1) = bad;
    auto const what = concat(": the logit of token 2 for expert 1 is ", std::string_view{text}, ", not finite");
    on_both([&](auto const& ctx) {
      CHECK_THROWS_WITH_AS(published<float>(ctx, logits), concat("sinkhorn", what).c_str(), value_error);
      CHECK_THROWS_WITH_AS(sinkhorn_log(ctx, SinkhornLogArgs<float>{.logits = logits, .plan = plan}),
                           concat("sinkhorn_log", what).c_str(), value_error);
    });
  }
  logits(2, 1) = 60;
  on_both([&](auto const& ctx) {
    CHECK_THROWS_WITH_AS(
        published<float>(ctx, logits),
        "sinkhorn: exp(s x) of expert 1 sums to inf: the logits are beyond the range of this form, use sinkhorn_log", value_error);
    CHECK(in_logs<float>(ctx, logits).report.iterations > 0);
  });
  logits(2, 1) = 3e38f;
  on_both([&](auto const& ctx) {
    CHECK_THROWS_AS(sinkhorn_log(ctx, SinkhornLogArgs<float>{.logits = logits, .plan = plan}), value_error);
    potentials(1) = infinity;
    logits(2, 1) = 0;
    CHECK_THROWS_WITH_AS(sinkhorn_log(ctx, SinkhornLogArgs<float>{.logits = logits, .plan = plan, .potentials = potentials}),
                         "sinkhorn_log: the potential of expert 1 is inf, not finite", value_error);
    logits(2, 1) = 3e38f;
  });
  CHECK(plan(0, 0) == 77);
  CHECK_THROWS_WITH_AS(sinkhorn(Reference{}, SinkhornArgs<float>{.logits = logits, .plan = wide}),
                       "sinkhorn: plan has shape (3, 4), logits asks for (3, 2): extent 1 is 4, not 2", shape_error);
  CHECK_THROWS_WITH_AS(sinkhorn_log(Reference{}, SinkhornLogArgs<float>{.logits = logits, .plan = plan, .tolerance = -1}),
                       "sinkhorn_log: tolerance is -1, not at least 0", value_error);
  CHECK_THROWS_WITH_AS(sinkhorn(Reference{}, SinkhornArgs<float>{.logits = logits, .plan = plan, .max_iterations = 0}),
                       "sinkhorn: max_iterations is 0, not at least 1", value_error);
  Tensor<float, 2> const no_expert{Shape{Index{3}, Index{0}}};
  CHECK_THROWS_WITH_AS(published<float>(Cpu{2}, no_expert), "sinkhorn: logits has 3 tokens and no expert to give them to",
                       value_error);
}
