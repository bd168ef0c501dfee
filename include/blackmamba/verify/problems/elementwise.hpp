#pragma once
/// \file
/// Problems for `add`, `convert`, `decay` and `expand_heads`, and their backward passes.

#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/convert/convert.hpp>
#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/decay/decay.hpp>
#include <blackmamba/ops/expand_heads/backward.hpp>
#include <blackmamba/ops/expand_heads/expand_heads.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct ElementwiseSize {
  Index rows = 0, D = 0;
};

inline std::string to_string(ElementwiseSize const& s) { return concat("rows ", s.rows, ", D ", s.D); }

namespace detail {

inline std::vector<ElementwiseSize> elementwise_sizes() { return {{0, 4}, {2, 0}, {1, 1}, {3, 7}, {2, 8}, {3, 129}, {5, 64}}; }

}  // namespace detail

template <Scalar T>
struct AddProblem {
  using Size = ElementwiseSize;
  static constexpr char const* name = "add";
  static constexpr auto operation = add;
  static std::vector<Size> sizes() { return detail::elementwise_sizes(); }

  Size size;
  Tensor<T, 2> a, b, y;

  template <class Stored>
  AddProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        a{in.template storage<T>(Shape<2>{s.rows, s.D})},
        b{in.template storage<T>(Shape<2>{s.rows, s.D})},
        y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) { return AddArgs<T>{.a = place.in(a), .b = place.in(b), .y = place.out(y)}; }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.scale = 1}}}; }
};

/// From the accumulator scalar to storage.
template <Scalar T>
struct ConvertProblem {
  using Size = ElementwiseSize;
  static constexpr char const* name = "convert";
  static constexpr auto operation = convert;
  static std::vector<Size> sizes() { return detail::elementwise_sizes(); }

  Size size;
  Tensor<accumulator_t<T>, 2> x;
  Tensor<T, 2> y;

  template <class Stored>
  ConvertProblem(Size const& s, Inputs<Stored>& in)
      : size{s}, x{in.template accumulator<accumulator_t<T>>(Shape<2>{s.rows, s.D})}, y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) { return ConvertArgs<accumulator_t<T>, T>{.x = place.in(x), .y = place.out(y)}; }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.terms = 0}}}; }
};

template <Scalar T>
struct DecayProblem {
  using Size = ElementwiseSize;
  static constexpr char const* name = "decay";
  static constexpr auto operation = decay;
  static std::vector<Size> sizes() { return detail::elementwise_sizes(); }

  Size size;
  Tensor<T, 2> A_log;
  Tensor<accumulator_t<T>, 2> A;

  template <class Stored>
  DecayProblem(Size const& s, Inputs<Stored>& in)
      : size{s}, A_log{in.template storage<T>(Shape<2>{s.rows, s.D})}, A{unwritten<accumulator_t<T>>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) { return DecayArgs<T>{.A_log = place.in(A_log), .A = place.out(A)}; }
  auto outputs() const { return std::tuple{Output{"A", A}}; }
};

template <Scalar T>
struct DecayBackwardProblem {
  using Size = ElementwiseSize;
  using Acc = accumulator_t<T>;
  static constexpr char const* name = "decay_backward";
  static constexpr auto operation = decay_backward;
  static std::vector<Size> sizes() { return detail::elementwise_sizes(); }

  Size size;
  Tensor<T, 2> A_log;
  Tensor<Acc, 2> d_A, d_A_log;
  double largest = 0;

  template <class Stored>
  DecayBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        A_log{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_A{in.template accumulator<Acc>(Shape<2>{s.rows, s.D})},
        d_A_log{in.template accumulator<Acc>(Shape<2>{s.rows, s.D})} {
    // Of what is subtracted, which may cancel what was there.
    for (Index i = 0; i < d_A.size(); ++i)
      largest =
          std::max(largest, std::fabs(static_cast<double>(d_A.data()[i])) * std::exp(static_cast<double>(widen(A_log.data()[i]))));
  }

  auto args(auto& place) {
    return DecayBackwardArgs<T>{.A_log = place.in(A_log), .d_A = place.in(d_A), .d_A_log = place.out(d_A_log)};
  }
  auto outputs() const { return std::tuple{Output{"d_A_log", d_A_log, Cost{.scale = largest}}}; }
};

struct ExpandHeadsSize {
  Index rows = 0, H = 1, P = 0;
  bool bias = true, softplus = true, clamp = false;
};

inline std::string to_string(ExpandHeadsSize const& s) {
  return concat("rows ", s.rows, ", H ", s.H, ", P ", s.P, s.bias ? ", bias" : "", s.softplus ? ", softplus" : "",
                s.clamp ? ", clamp" : "");
}

namespace detail {

inline std::vector<ExpandHeadsSize> expand_heads_sizes() {
  std::vector<ExpandHeadsSize> out;
  for (int bits = 0; bits < 8; ++bits) {
    bool const bias = bits & 1, softplus = bits & 2, clamp = bits & 4;
    out.push_back({5, 3, 7, bias, softplus, clamp});
    out.push_back({3, 4, 64, bias, softplus, clamp});
  }
  for (auto const& s : {ExpandHeadsSize{0, 3, 8}, {4, 5, 0}, {1, 1, 1}, {2, 36, 8}, {70, 2, 300}}) out.push_back(s);
  return out;
}
inline constexpr double clamp_low = 0.25, clamp_high = 1.5;

}  // namespace detail

template <Scalar T>
struct ExpandHeadsProblem {
  using Size = ExpandHeadsSize;
  static constexpr char const* name = "expand_heads";
  static constexpr auto operation = expand_heads;
  static std::vector<Size> sizes() { return detail::expand_heads_sizes(); }

  Size size;
  Tensor<T, 2> x;
  Tensor<T, 1> bias;
  Tensor<T, 2> y;

  template <class Stored>
  ExpandHeadsProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.H})},
        bias{in.template storage<T>(Shape<1>{s.H})},
        y{unwritten<T>(Shape<2>{s.rows, s.H * s.P})} {}

  auto args(auto& place) {
    return ExpandHeadsArgs<T>{.x = place.in(x),
                              .bias = place.in(bias, size.bias),
                              .softplus = size.softplus,
                              .low = size.clamp ? detail::clamp_low : 0,
                              .high = size.clamp ? detail::clamp_high : 0,
                              .y = place.out(y)};
  }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.scale = 1}}}; }
};

template <Scalar T>
struct ExpandHeadsBackwardProblem {
  using Size = ExpandHeadsSize;
  using Acc = accumulator_t<T>;
  static constexpr char const* name = "expand_heads_backward";
  static constexpr auto operation = expand_heads_backward;
  static std::vector<Size> sizes() { return detail::expand_heads_sizes(); }

  Size size;
  Tensor<T, 2> x;
  Tensor<T, 1> bias;
  Tensor<T, 2> d_y, d_x;
  Tensor<Acc, 1> d_bias;

  template <class Stored>
  ExpandHeadsBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.H})},
        bias{in.template storage<T>(Shape<1>{s.H})},
        d_y{in.template storage<T>(Shape<2>{s.rows, s.H * s.P})},
        d_x{unwritten<T>(Shape<2>{s.rows, s.H})},
        d_bias{in.template accumulator<Acc>(Shape<1>{s.H})} {}

  auto args(auto& place) {
    return ExpandHeadsBackwardArgs<T>{.x = place.in(x),
                                      .bias = place.in(bias, size.bias),
                                      .softplus = size.softplus,
                                      .low = size.clamp ? detail::clamp_low : 0,
                                      .high = size.clamp ? detail::clamp_high : 0,
                                      .d_y = place.in(d_y),
                                      .d_x = place.out(d_x),
                                      .d_bias = place.out(d_bias, size.bias)};
  }
  auto outputs() const {
    // Sums of numbers of size 1 and either sign have the size of the root of their count, and may be left with little.
    auto const P = static_cast<double>(size.P), all = static_cast<double>(size.rows) * P;
    return std::tuple{Output{"d_x", d_x, Cost{.terms = P, .scale = std::sqrt(P)}},
                      Output{"d_bias", d_bias, Cost{.terms = all, .scale = std::sqrt(all)}, size.bias}};
  }
};

}  // namespace blackmamba::verify
