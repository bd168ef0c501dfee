#pragma once
/// \file
/// Problems for `adamw`.

#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct AdamWSize {
  Index n = 0, segment = 0;  ///< elements, and of each segment: every third does not decay, every fifth is left out
  Index step = 1;
  bool with_weights = true;
};

inline std::string to_string(AdamWSize const& s) {
  return concat("n ", s.n, ", segments of ", s.segment, ", step ", s.step, s.with_weights ? ", weights" : "");
}

template <Scalar T>
struct AdamWProblem {
  using Size = AdamWSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "adamw";
  static constexpr auto operation = adamw;

  static std::vector<Size> sizes() {
    std::vector<Size> out;
    for (Index n : {0, 1, 7, 8, 9, 127, 1009})
      for (Index segment : {1, 13, 2000}) {
        out.push_back({n, segment, 1, true});
        out.push_back({n, segment, 1000, false});
      }
    return out;
  }

  Size size;
  Tensor<A, 1> master, gradient, first, second;
  Tensor<T, 1> weights;
  std::vector<AdamWSegment> segments{};

  template <class Stored>
  AdamWProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        master{in.template accumulator<A>(Shape<1>{s.n})},
        gradient{in.template accumulator<A>(Shape<1>{s.n})},
        first{in.template accumulator<A>(Shape<1>{s.n})},
        second{in.template accumulator<A>(Shape<1>{s.n}, Uniform{0.25, 4})},
        weights{in.template storage<T>(Shape<1>{s.n})} {
    for (Index i = 0, at = 0; at < s.n; ++i, at += s.segment)
      if (i % 5 != 4) segments.push_back({at, std::min(s.segment, s.n - at), i % 3 != 2});
  }

  auto args(auto& place) {
    return AdamWArgs<T>{.master = place.out(master),
                        .gradient = place.in(gradient),
                        .first = place.out(first),
                        .second = place.out(second),
                        .weights = place.out(weights, size.with_weights),
                        .segments = {segments.data(), Shape<1>{static_cast<Index>(segments.size())}},
                        .step = size.step,
                        .learning_rate = 0.0625,
                        .weight_decay = 0.125,
                        .gradient_scale = 0.5};
  }

  /// Sums of a weight and its change, of a moment and a gradient: numbers of unit size and either sign, which may cancel.
  auto outputs() const {
    Cost const cost{.terms = 4, .scale = 1};
    return std::tuple{Output{"master", master, cost}, Output{"first", first, cost}, Output{"second", second, cost},
                      Output{"weights", weights, cost, size.with_weights}};
  }
};

}  // namespace blackmamba::verify
