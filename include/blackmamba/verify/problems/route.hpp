#pragma once
/// \file
/// Problems for the routing rules and for both forms of Sinkhorn's iteration.

#include <blackmamba/ops/route/route.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct RouteSize {
  Index tokens = 0, E = 1, k = 1;
  bool normalise = true;
};

inline std::string to_string(RouteSize const& s) {
  return concat("tokens ", s.tokens, ", E ", s.E, ", k ", s.k, s.normalise ? ", normalised" : "");
}

/// What the routing rules share. The chosen experts are compared exactly: the reference sees the same logits.
template <Scalar T>
struct RouteProblem {
  using Size = RouteSize;

  Size size;
  Tensor<T, 2> logits;
  Tensor<int, 2> experts;
  Tensor<accumulator_t<T>, 2> weights;

  template <class Stored>
  RouteProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E})},
        experts{unwritten<int>(Shape<2>{s.tokens, s.k})},
        weights{unwritten<accumulator_t<T>>(Shape<2>{s.tokens, s.k})} {}

  auto args(auto& place) {
    return RouteArgs<T>{
        .logits = place.in(logits), .experts = place.out(experts), .weights = place.out(weights), .normalise = size.normalise};
  }

  auto outputs() const {
    return std::tuple{Output{"experts", experts}, Output{"weights", weights, Cost{.terms = static_cast<double>(size.E)}}};
  }
};

template <Scalar T>
struct RouteTop1SigmoidProblem : RouteProblem<T> {
  static constexpr char const* name = "route_top1_sigmoid";
  static constexpr auto operation = route_top1_sigmoid;
  static std::vector<RouteSize> sizes() { return {{0, 3}, {1, 1}, {1, 8}, {7, 2}, {131, 8}, {17, 31}}; }
  using RouteProblem<T>::RouteProblem;
};

template <Scalar T>
struct RouteTopKSoftmaxProblem : RouteProblem<T> {
  static constexpr char const* name = "route_top_k_softmax";
  static constexpr auto operation = route_top_k_softmax;
  static std::vector<RouteSize> sizes() {
    return {{0, 3, 2}, {1, 1, 1}, {1, 8, 8}, {7, 2, 1, false}, {131, 8, 2}, {17, 31, 5, false}};
  }
  using RouteProblem<T>::RouteProblem;
};

struct SinkhornSize {
  Index tokens = 0, E = 1;
};

inline std::string to_string(SinkhornSize const& s) { return concat("tokens ", s.tokens, ", E ", s.E); }

/// What both forms share. The number of iterations is fixed, so that every scalar computes the same function of the logits.
template <Scalar T>
struct SinkhornPlanProblem {
  using Size = SinkhornSize;
  static constexpr Index iterations = 6;
  static std::vector<Size> sizes() { return {{0, 3}, {1, 1}, {1, 8}, {8, 1}, {7, 3}, {64, 8}, {131, 5}}; }

  Size size;
  Tensor<T, 2> logits;
  Tensor<accumulator_t<T>, 2> plan;

  template <class Stored>
  SinkhornPlanProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E})},
        plan{unwritten<accumulator_t<T>>(Shape<2>{s.tokens, s.E})} {}

  /// Each iteration sums over the experts and over the tokens.
  auto outputs() const {
    return std::tuple{Output{"plan", plan, Cost{.terms = static_cast<double>(iterations * (size.tokens + size.E))}}};
  }
};

template <Scalar T>
struct SinkhornProblem : SinkhornPlanProblem<T> {
  static constexpr char const* name = "sinkhorn";
  static constexpr auto operation = sinkhorn;
  using SinkhornPlanProblem<T>::SinkhornPlanProblem;

  auto args(auto& place) {
    return SinkhornArgs<T>{
        .logits = place.in(this->logits), .plan = place.out(this->plan), .tolerance = 0, .max_iterations = this->iterations};
  }
};

template <Scalar T>
struct SinkhornLogProblem : SinkhornPlanProblem<T> {
  static constexpr char const* name = "sinkhorn_log";
  static constexpr auto operation = sinkhorn_log;
  using SinkhornPlanProblem<T>::SinkhornPlanProblem;

  auto args(auto& place) {
    return SinkhornLogArgs<T>{
        .logits = place.in(this->logits), .plan = place.out(this->plan), .tolerance = 0, .max_iterations = this->iterations};
  }
};

}  // namespace blackmamba::verify
