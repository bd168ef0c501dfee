#include <blackmamba/io/tensor_file.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

#include "support/data.hpp"
#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Calls `body(logits, reference plan, converged plan)` for every `logits_*` of every file, and returns how many there were.
template <class Body>
int for_each_case(Body const& body) {
  int cases = 0;
  for (auto const& path : test::entries(test::data_folder() / "sinkhorn", "", ".safetensors")) {
    auto const file = io::TensorFile::open(path);
    for (auto const& name : file.names()) {
      if (!name.starts_with("logits_")) continue;
      auto const size = name.substr(std::string{"logits_"}.size());
      INFO(concat(path.string(), ": ", name));
      body(file.read<double, 2>(name), file.read<double, 2>("plan_reference_" + size),
           file.read<double, 2>("plan_converged_" + size));
      ++cases;
    }
  }
  return cases;
}

/// What the report must say, from the plan alone and in more digits.
double marginal_error(Tensor<double, 2> const& plan) {
  Index const tokens = plan.extent(0), E = plan.extent(1);
  long double worst = 0;
  for (Index i = 0; i < tokens; ++i) {
    long double sum = 0;
    for (Index j = 0; j < E; ++j) sum += plan(i, j);
    worst = std::max(worst, std::fabs(sum * static_cast<long double>(tokens) - 1));
  }
  for (Index j = 0; j < E; ++j) {
    long double sum = 0;
    for (Index i = 0; i < tokens; ++i) sum += plan(i, j);
    worst = std::max(worst, std::fabs(sum * static_cast<long double>(E) - 1));
  }
  return static_cast<double>(worst);
}

/// Each entry within the table of its own magnitude: an error of a sum reaches the plan as a factor.
void check_entries(Tensor<double, 2> const& plan, Tensor<double, 2> const& expected, verify::Cost const& cost) {
  CHECK_CLOSE(verify::compare_with(plan.view(), expected.view(),
                                   [&](double e, double) { return verify::allowed_error<double>(cost, e, e); }));
}

/// The relative rounding of a sum over all tokens.
double resolution(Index tokens) { return verify::allowed_error<double>(verify::Cost{.terms = static_cast<double>(tokens)}, 1, 1); }

template <class Ctx>
void check_published(Ctx const& ctx) {
  int const cases =
      for_each_case([&](Tensor<double, 2> const& logits, Tensor<double, 2> const& expected, Tensor<double, 2> const&) {
        Tensor<double, 2> plan{logits.shape()};
        auto const report = sinkhorn(ctx, SinkhornArgs<double>{.logits = logits, .plan = plan});
        CHECK(report.converged);
        check_entries(plan, expected, {.terms = static_cast<double>(logits.extent(0))});
        CHECK(std::fabs(report.marginal_error - marginal_error(plan)) <= resolution(logits.extent(0)));
      });
  CHECK(cases > 0);
}

template <class Ctx>
void check_log(Ctx const& ctx) {
  int const cases =
      for_each_case([&](Tensor<double, 2> const& logits, Tensor<double, 2> const&, Tensor<double, 2> const& expected) {
        Tensor<double, 2> plan{logits.shape()};
        auto const until = [&](double tolerance) {
          return sinkhorn_log(
              ctx, SinkhornLogArgs<double>{.logits = logits, .plan = plan, .tolerance = tolerance, .max_iterations = 20000});
        };
        double const tolerance = resolution(logits.extent(0));
        auto const halfway = until(std::sqrt(tolerance)), report = until(tolerance);
        CHECK(report.converged);
        CHECK(report.marginal_error <= tolerance);
        CHECK(std::fabs(report.marginal_error - marginal_error(plan)) <= tolerance);
        // The last steps contract by a rate r < 1, measured here, so what was still to go is the last step times 1 / (1 - r), about
        // -1 / log(r); and an entry carries what is left in both potentials.
        double const to_go = static_cast<double>(report.iterations - halfway.iterations) / -std::log(std::sqrt(tolerance));
        check_entries(plan, expected, {.terms = static_cast<double>(logits.extent(0)), .gain = 2 * std::max(1.0, to_go)});
      });
  CHECK(cases > 0);
}

}  // namespace

TEST_CASE("golden: sinkhorn in the published form equals the published plan to rounding") {
  check_published(Reference{});
  check_published(Cpu{1});
  check_published(Cpu{2});
}

TEST_CASE("golden: sinkhorn_log reaches the converged plan and reports its marginal error") {
  check_log(Reference{});
  check_log(Cpu{1});
  check_log(Cpu{2});
}
