#pragma once
/// \file
/// Problems for `activation` and `gated_unit`.

#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct ActivationSize {
  Index rows = 0, D = 0;
  Activation kind = Activation::identity;
};

inline std::string to_string(ActivationSize const& s) {
  return concat(blackmamba::to_string(s.kind), ", rows ", s.rows, ", D ", s.D);
}

namespace detail {

inline std::vector<ActivationSize> activation_sizes() {
  std::vector<ActivationSize> out;
  for (auto kind : {Activation::identity, Activation::relu, Activation::relu_squared, Activation::silu, Activation::gelu_erf,
                    Activation::gelu_tanh})
    for (Shape<2> const& shape : {Shape<2>{0, 4}, Shape<2>{2, 0}, Shape<2>{1, 1}, Shape<2>{3, 7}, Shape<2>{2, 8}, Shape<2>{3, 129}})
      out.push_back({shape[0], shape[1], kind});
  return out;
}

/// Inputs spread over ±6, where the functions bend; GELU's 1 + erf(x) cancels on the left, so what is summed has size 1.
inline constexpr Normal activation_inputs{.spread = 2};
inline constexpr Cost activation_cost{.scale = 1};

}  // namespace detail

template <Scalar T>
struct ActivationProblem {
  using Size = ActivationSize;
  static constexpr char const* name = "activation";
  static constexpr auto operation = activation;
  static std::vector<Size> sizes() { return detail::activation_sizes(); }

  Size size;
  Tensor<T, 2> x, y;

  template <class Stored>
  ActivationProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::activation_inputs)},
        y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) { return ActivationArgs<T>{.kind = size.kind, .x = place.in(x), .y = place.out(y)}; }
  auto outputs() const { return std::tuple{Output{"y", y, detail::activation_cost}}; }
};

template <Scalar T>
struct GatedUnitProblem {
  using Size = ActivationSize;
  static constexpr char const* name = "gated_unit";
  static constexpr auto operation = gated_unit;
  static std::vector<Size> sizes() { return detail::activation_sizes(); }

  Size size;
  Tensor<T, 2> gate, value, y;

  template <class Stored>
  GatedUnitProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        gate{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::activation_inputs)},
        value{in.template storage<T>(Shape<2>{s.rows, s.D})},
        y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) {
    return GatedUnitArgs<T>{.kind = size.kind, .gate = place.in(gate), .value = place.in(value), .y = place.out(y)};
  }
  auto outputs() const { return std::tuple{Output{"y", y, detail::activation_cost}}; }
};

}  // namespace blackmamba::verify
