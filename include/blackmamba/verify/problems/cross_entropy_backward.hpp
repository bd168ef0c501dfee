#pragma once
/// \file
/// Problem for `cross_entropy_backward`.

#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/verify/problems/softmax.hpp>

namespace blackmamba::verify {

template <Scalar T>
struct CrossEntropyBackwardProblem {
  using Size = SoftmaxSize;
  static constexpr char const* name = "cross_entropy_backward";
  static constexpr auto operation = cross_entropy_backward;
  static std::vector<Size> sizes() { return detail::softmax_sizes(); }

  Size size;
  Tensor<T, 2> logits;
  Tensor<Token, 1> targets;
  Tensor<T, 2> d_logits;

  template <class Stored>
  CrossEntropyBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::softmax_inputs)},
        targets{in.template integers<Token>(Shape<1>{s.rows}, s.D)},
        d_logits{unwritten<T>(Shape<2>{s.rows, s.D})} {
    if (s.rows > 2) targets(1) = -100;  // ignored
  }

  auto args(auto& place) {
    return CrossEntropyBackwardArgs<T>{.logits = place.in(logits),
                                       .targets = place.in(targets),
                                       .z_coefficient = 0.01,
                                       .scale = 0.5,
                                       .d_logits = place.out(d_logits)};
  }
  // At the target a probability and -1 meet.
  auto outputs() const {
    return std::tuple{Output{"d_logits", d_logits, Cost{.terms = static_cast<double>(size.D), .scale = 0.5}}};
  }
};

}  // namespace blackmamba::verify
