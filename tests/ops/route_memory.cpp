#include <blackmamba/ops/route/memory.hpp>
#include <blackmamba/ops/route/plan_report.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// All of a tensor's elements.
Tensor<float, 1> filled(float value) {
  Tensor<float, 1> out{Shape<1>{3}};
  for (float& x : out) x = value;
  return out;
}

}  // namespace

TEST_CASE("route_memory: a pass begins from the first of what there is that is not all zeros") {
  auto const zeros = filled(0), memory = filled(1), earlier = filled(2), instead = filled(3);
  auto const begins = [](View<float const, 1> of, View<float const, 1> before, View<float const, 1> stands_in) {
    auto out = filled(7);
    route_memory(Cpu{2}, RouteMemoryArgs<float>{.memory = of, .earlier = before, .instead = stands_in, .otherwise = 4, .out = out});
    CHECK((out(0) == out(1) && out(1) == out(2)));
    return out(0);
  };
  CHECK(begins(memory, earlier, instead) == 2);
  CHECK(begins(memory, zeros, instead) == 1);
  CHECK(begins(memory, {}, {}) == 1);
  CHECK(begins(zeros, zeros, instead) == 3);
  CHECK(begins(zeros, {}, instead) == 3);
  CHECK(begins(zeros, {}, {}) == 4);
  // One element decides for all: no expert begins from something else than the others.
  auto mixed = filled(0), out = filled(7);
  mixed(1) = 5;
  route_memory(Reference{}, RouteMemoryArgs<float>{.memory = mixed, .otherwise = 4, .out = out});
  CHECK((out(0) == 0 && out(1) == 5 && out(2) == 0));
  Tensor<float, 1> two{Shape<1>{2}};
  CHECK_THROWS_AS(route_memory(Reference{}, RouteMemoryArgs<float>{.memory = two, .out = out}), shape_error);
}

TEST_CASE("route_blend: a multiple is written or added, also of counts, also onto itself") {
  auto const x = filled(3);
  auto y = filled(10);
  Tensor<Index, 1> counts{Shape<1>{3}};
  counts(2) = 4;
  route_blend(Cpu{2}, RouteBlendArgs<float>{.x = x, .factor = 2, .add = true, .y = y});
  CHECK(y(1) == 16);
  route_blend(Cpu{2}, RouteBlendArgs<float>{.counts = counts, .add = true, .y = y});
  CHECK((y(0) == 16 && y(2) == 20));
  route_blend(Reference{}, RouteBlendArgs<float>{.x = y, .factor = -1, .y = y});
  CHECK((y(0) == -16 && y(2) == -20));
  CHECK_THROWS_WITH_AS(route_blend(Reference{}, RouteBlendArgs<float>{.y = y}), "route_blend: one of x and counts is needed",
                       value_error);
  CHECK_THROWS_AS(route_blend(Reference{}, RouteBlendArgs<float>{.x = x, .counts = counts, .y = y}), value_error);
}

TEST_CASE("plan_report: two numbers of a report come to where a router tells them") {
  Tensor<SinkhornReport, 1> report{Shape<1>{1}};
  report(0) = {.iterations = 7, .marginal_error = 0.25, .converged = true};
  Tensor<Index, 1> iterations{Shape<1>{1}};
  Tensor<double, 1> error{Shape<1>{1}};
  plan_report(Cpu{1}, PlanReportArgs{.report = report, .iterations = iterations, .marginal_error = error});
  CHECK((iterations(0) == 7 && error(0) == 0.25));
}
