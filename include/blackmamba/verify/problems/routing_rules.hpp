#pragma once
/// \file
/// Problems for the operations that routers are made of: choices, gates, columns, memory. Choices are compared exactly, so what
/// they are made by is exact too: quarters, with many ties.

#include <cmath>

#include <blackmamba/ops/route/route.hpp>
#include <blackmamba/ops/route/threshold.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

/// Normal numbers to the nearest quarter.
struct Quarters {
  double spread = 1;
  double operator()(Random const& random, std::uint64_t i) const { return std::nearbyint(4 * spread * random.normal(i)) / 4; }
};

/// `option` says which of an operation's optional arguments there are, or which of its gates it is.
struct RoutingSize {
  Index tokens = 0, E = 1, k = 1;
  int option = 0;
};

inline std::string to_string(RoutingSize const& s) {
  return concat("tokens ", s.tokens, ", E ", s.E, ", k ", s.k, ", option ", s.option);
}

/// No token, one, and more than blocks have threads; every option of each.
inline std::vector<RoutingSize> routing_sizes(int options) {
  std::vector<RoutingSize> out;
  for (RoutingSize size : {RoutingSize{0, 3, 2}, {1, 1, 1}, {7, 4, 1}, {1, 8, 4}, {333, 16, 4}, {1025, 6, 2}, {37, 33, 33}})
    for (size.option = 0; size.option < options; ++size.option) out.push_back(size);
  return out;
}

template <Scalar T>
struct RouteChooseProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_choose";
  static constexpr auto operation = route_choose;
  static std::vector<Size> sizes() { return routing_sizes(4); }

  Size size;
  Tensor<A, 2> scores;
  Tensor<A, 1> bias;
  Tensor<int, 2> experts;

  template <class Stored>
  RouteChooseProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        scores{in.template accumulator<A>(Shape<2>{s.tokens, s.E}, Quarters{})},
        bias{in.template accumulator<A>(Shape<1>{s.E}, Quarters{0.5})},
        experts{unwritten<int>(Shape<2>{s.tokens, s.k})} {}

  /// Option 1: a bias; 2: groups of two, as few of them kept as hold k.
  auto args(auto& place) {
    bool const grouped = (size.option & 2) && size.E % 2 == 0;
    return RouteChooseArgs<A>{.scores = place.in(scores),
                              .bias = place.in(bias, (size.option & 1) != 0),
                              .groups = grouped ? size.E / 2 : 1,
                              .groups_kept = grouped ? (size.k + 1) / 2 : 1,
                              .experts = place.out(experts)};
  }

  auto outputs() const { return std::tuple{Output{"experts", experts}}; }
};

template <Scalar T>
struct RouteDrawProblem {
  using Size = RoutingSize;
  static constexpr char const* name = "route_draw";
  static constexpr auto operation = route_draw;
  static std::vector<Size> sizes() { return routing_sizes(2); }

  Size size;
  Tensor<Token, 1> keys;
  Tensor<int, 2> experts;

  template <class Stored>
  RouteDrawProblem(Size const& s, Inputs<Stored>& in)
      : size{s}, keys{in.template integers<Token>(Shape<1>{s.tokens}, 50000)}, experts{unwritten<int>(Shape<2>{s.tokens, s.k})} {}

  /// Option 1: keys.
  auto args(auto& place) {
    return RouteDrawArgs{
        .random = Random{17, 3}, .keys = place.in(keys, size.option == 1), .n_experts = size.E, .experts = place.out(experts)};
  }

  auto outputs() const { return std::tuple{Output{"experts", experts}}; }
};

/// Options are gates; those from 4 on are normalised.
template <Scalar T>
struct RouteScoresProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_scores";
  static constexpr auto operation = route_scores;
  static std::vector<Size> sizes() { return routing_sizes(4); }

  Size size;
  Tensor<T, 2> logits;
  Tensor<A, 2> scores;

  template <class Stored>
  RouteScoresProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E}, Normal{0, 3})},
        scores{unwritten<A>(Shape<2>{s.tokens, s.E})} {}

  auto args(auto& place) {
    return RouteScoresArgs<T>{.logits = place.in(logits), .gate = static_cast<Gate>(size.option), .scores = place.out(scores)};
  }

  /// An exponent of up to about 20 carries its rounding into the exponential.
  auto outputs() const { return std::tuple{Output{"scores", scores, Cost{.terms = static_cast<double>(size.E), .gain = 4}}}; }
};

/// A rule that does not look at what it chooses, and one that takes what is positive.
template <Scalar T>
struct RoutePositiveProblem {
  using Size = RoutingSize;
  static constexpr char const* name = "route_positive";
  static constexpr auto operation = route_positive;
  static std::vector<Size> sizes() { return routing_sizes(1); }

  Size size;
  Tensor<T, 2> logits;
  Tensor<int, 2> experts;

  template <class Stored>
  RoutePositiveProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E}, Quarters{})},
        experts{unwritten<int>(Shape<2>{s.tokens, s.E})} {}

  auto args(auto& place) { return RoutePositiveArgs<T>{.logits = place.in(logits), .experts = place.out(experts)}; }
  auto outputs() const { return std::tuple{Output{"experts", experts}}; }
};

template <Scalar T>
struct RouteAllProblem {
  using Size = RoutingSize;
  static constexpr char const* name = "route_all";
  static constexpr auto operation = route_all;
  static std::vector<Size> sizes() { return routing_sizes(1); }

  Tensor<int, 2> experts;

  template <class Stored>
  RouteAllProblem(Size const& s, Inputs<Stored>&) : experts{unwritten<int>(Shape<2>{s.tokens, s.E})} {}

  auto args(auto& place) { return RouteAllArgs{.experts = place.out(experts)}; }
  auto outputs() const { return std::tuple{Output{"experts", experts}}; }
};

template <Scalar T>
struct RoutePlanSigmoidProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_plan_sigmoid";
  static constexpr auto operation = route_plan_sigmoid;
  static std::vector<Size> sizes() { return routing_sizes(1); }

  Size size;
  Tensor<A, 2> plan;
  Tensor<T, 2> logits;
  Tensor<int, 2> experts;
  Tensor<A, 2> weights;

  template <class Stored>
  RoutePlanSigmoidProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        plan{in.template accumulator<A>(Shape<2>{s.tokens, s.E}, Quarters{})},
        logits{in.template storage<T>(Shape<2>{s.tokens, s.E})},
        experts{unwritten<int>(Shape<2>{s.tokens, 1})},
        weights{unwritten<A>(Shape<2>{s.tokens, 1})} {}

  auto args(auto& place) {
    return RoutePlanArgs<T>{
        .plan = place.in(plan), .logits = place.in(logits), .experts = place.out(experts), .weights = place.out(weights)};
  }
  auto outputs() const { return std::tuple{Output{"experts", experts}, Output{"weights", weights, Cost{.terms = 2}}}; }
};

template <Scalar T>
struct RouteExpertChoiceProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_expert_choice";
  static constexpr auto operation = route_expert_choice;
  static std::vector<Size> sizes() { return routing_sizes(6); }

  Size size;
  Tensor<A, 2> scores;
  Tensor<int, 2> experts;
  Tensor<A, 1> thresholds;

  template <class Stored>
  RouteExpertChoiceProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        scores{in.template accumulator<A>(Shape<2>{s.tokens, s.E}, Quarters{s.option % 2 == 0 ? 1.0 : 1e4})},
        experts{unwritten<int>(Shape<2>{s.tokens, s.E})},
        thresholds{unwritten<A>(Shape<1>{s.E})} {}

  /// Option 1: few ties; 2: the even share; 4: all tokens.
  auto args(auto& place) {
    Index const share = size.option >= 4 ? size.tokens : size.option >= 2 ? even_share(size.tokens, size.k, size.E) : 1;
    return ExpertChoiceArgs<A>{
        .scores = place.in(scores), .capacity = share, .experts = place.out(experts), .thresholds = place.out(thresholds)};
  }
  auto outputs() const {
    bool const some = size.tokens > 0;
    return std::tuple{Output{"experts", experts, Cost{}, some}, Output{"thresholds", thresholds, Cost{}, some}};
  }
};

template <Scalar T>
struct RouteThresholdProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_threshold";
  static constexpr auto operation = route_threshold;
  static std::vector<Size> sizes() { return routing_sizes(1); }

  Tensor<A, 2> scores;
  Tensor<A, 1> thresholds;
  Tensor<int, 2> experts;

  template <class Stored>
  RouteThresholdProblem(Size const& s, Inputs<Stored>& in)
      : scores{in.template accumulator<A>(Shape<2>{s.tokens, s.E}, Quarters{})},
        thresholds{in.template accumulator<A>(Shape<1>{s.E}, Quarters{})},
        experts{unwritten<int>(Shape<2>{s.tokens, s.E})} {}

  auto args(auto& place) {
    return RouteThresholdArgs<A>{.scores = place.in(scores), .thresholds = place.in(thresholds), .experts = place.out(experts)};
  }
  auto outputs() const { return std::tuple{Output{"experts", experts}}; }
};

template <Scalar T>
struct BalanceThresholdsProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "balance_thresholds";
  static constexpr auto operation = balance_thresholds;
  static std::vector<Size> sizes() { return routing_sizes(2); }

  Size size;
  Tensor<A, 2> scores;
  Tensor<A, 1> thresholds;

  template <class Stored>
  BalanceThresholdsProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        scores{in.template accumulator<A>(Shape<2>{s.tokens, s.E}, Quarters{s.option == 0 ? 1.0 : 1e4})},
        thresholds{in.template accumulator<A>(Shape<1>{s.E}, Quarters{0.5})} {}

  auto args(auto& place) {
    return BalanceThresholdsArgs<A>{.scores = place.in(scores), .k = size.k, .thresholds = place.out(thresholds)};
  }

  /// Quarters differ by quarters: nothing is rounded.
  auto outputs() const { return std::tuple{Output{"thresholds", thresholds, Cost{}}}; }
};

template <Scalar T>
struct RouteMemoryProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_memory";
  static constexpr auto operation = route_memory;
  static std::vector<Size> sizes() { return routing_sizes(16); }

  Size size;
  Tensor<T, 1> memory;
  Tensor<A, 1> earlier, instead, out;

  /// Option 1: memory is zeros; 2: with what was before it, which with 4 is zeros; 8: with what stands in for both.
  template <class Stored>
  RouteMemoryProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        memory{in.template storage<T>(Shape<1>{s.E}, Normal{0, (s.option & 1) ? 0.0 : 1.0})},
        earlier{in.template accumulator<A>(Shape<1>{s.E}, Normal{0, (s.option & 4) ? 0.0 : 1.0})},
        instead{in.template accumulator<A>(Shape<1>{s.E})},
        out{unwritten<A>(Shape<1>{s.E})} {}

  auto args(auto& place) {
    return RouteMemoryArgs<T>{.memory = place.in(memory),
                              .earlier = place.in(earlier, (size.option & 2) != 0),
                              .instead = place.in(instead, (size.option & 8) != 0),
                              .otherwise = 0.375,
                              .out = place.out(out)};
  }
  auto outputs() const { return std::tuple{Output{"out", out, Cost{.terms = 0}}}; }
};

template <Scalar T>
struct RouteBlendProblem {
  using Size = RoutingSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "route_blend";
  static constexpr auto operation = route_blend;
  static std::vector<Size> sizes() { return routing_sizes(4); }

  Size size;
  Tensor<A, 1> x;
  Tensor<Index, 1> counts;
  Tensor<A, 1> y;

  template <class Stored>
  RouteBlendProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template accumulator<A>(Shape<1>{s.E})},
        counts{in.template integers<Index>(Shape<1>{s.E}, 1000)},
        y{in.template accumulator<A>(Shape<1>{s.E})} {}

  /// Option 1: added; 2: counts.
  auto args(auto& place) {
    bool const counted = (size.option & 2) != 0;
    return RouteBlendArgs<A>{.x = place.in(x, !counted),
                             .counts = place.in(counts, counted),
                             .factor = -2.5,
                             .add = (size.option & 1) != 0,
                             .y = place.out(y)};
  }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.terms = 2, .scale = 1}}}; }
};

}  // namespace blackmamba::verify
