#pragma once
/// \file
/// Problems for `layer_norm`.

#include <blackmamba/ops/layer_norm/layer_norm.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>

namespace blackmamba::verify {

struct LayerNormSize : RmsNormSize {
  bool with_bias = true;
};

inline std::string to_string(LayerNormSize const& s) {
  return to_string(static_cast<RmsNormSize const&>(s)) + (s.with_bias ? ", bias" : "");
}

/// The tensors of `rms_norm` and a bias.
template <Scalar T>
struct LayerNormProblem : RmsNormProblem<T> {
  using Size = LayerNormSize;
  static constexpr char const* name = "layer_norm";
  static constexpr auto operation = layer_norm;

  static std::vector<Size> sizes() {
    std::vector<Size> out;
    for (auto const& size : RmsNormProblem<T>::sizes())
      for (bool with_bias : {true, false}) out.push_back({size, with_bias});
    return out;
  }

  bool with_bias;
  Tensor<T, 1> bias;

  template <class Stored>
  LayerNormProblem(Size const& s, Inputs<Stored>& in)
      : RmsNormProblem<T>{s, in}, with_bias{s.with_bias}, bias{in.template storage<T>(Shape<1>{s.D})} {}

  auto args(auto& place) {
    auto const rms = RmsNormProblem<T>::args(place);
    return LayerNormArgs<T>{
        .x = rms.x, .weight = rms.weight, .bias = place.in(bias, with_bias), .residual = rms.residual, .y = rms.y};
  }

  auto outputs() const {
    // Taking the mean away cancels at D = 1 altogether, and what was summed is of unit size.
    Cost const cost{.terms = static_cast<double>(this->size.D), .scale = 1};
    return std::tuple{Output{"y", this->y, cost}, Output{"residual", this->residual, cost, this->size.with_residual}};
  }
};

}  // namespace blackmamba::verify
