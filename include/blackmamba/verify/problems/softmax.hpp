#pragma once
/// \file
/// Problems for `softmax`, `log_softmax` and `cross_entropy`.

#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>
#include <blackmamba/ops/softmax/softmax.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct SoftmaxSize {
  Index rows = 0, D = 0;
};

inline std::string to_string(SoftmaxSize const& s) { return concat("rows ", s.rows, ", D ", s.D); }

namespace detail {

inline std::vector<SoftmaxSize> softmax_sizes() {
  return {{0, 5}, {1, 1}, {3, 2}, {2, 7}, {3, 8}, {2, 9}, {5, 64}, {1, 257}, {3, 1009}};
}
inline constexpr Normal softmax_inputs{.spread = 3};

/// The logarithm's result is a difference of logits, so what is summed has their size, however small the difference.
inline Cost softmax_cost(Index D) { return {.terms = static_cast<double>(D), .scale = softmax_inputs.spread}; }

}  // namespace detail

template <Scalar T>
struct SoftmaxProblem {
  using Size = SoftmaxSize;
  static constexpr char const* name = "softmax";
  static constexpr auto operation = softmax;
  static std::vector<Size> sizes() { return detail::softmax_sizes(); }

  Size size;
  Tensor<T, 2> x, y;

  template <class Stored>
  SoftmaxProblem(Size const& s, Inputs<Stored>& in)
      : size{s}, x{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::softmax_inputs)}, y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) { return SoftmaxArgs<T>{.x = place.in(x), .y = place.out(y)}; }
  auto outputs() const { return std::tuple{Output{"y", y, Cost{.terms = static_cast<double>(size.D)}}}; }
};

template <Scalar T>
struct LogSoftmaxProblem : SoftmaxProblem<T> {
  static constexpr char const* name = "log_softmax";
  static constexpr auto operation = log_softmax;
  using SoftmaxProblem<T>::SoftmaxProblem;

  auto outputs() const { return std::tuple{Output{"y", this->y, detail::softmax_cost(this->size.D)}}; }
};

template <Scalar T>
struct CrossEntropyProblem {
  using Size = SoftmaxSize;
  static constexpr char const* name = "cross_entropy";
  static constexpr auto operation = cross_entropy;
  static std::vector<Size> sizes() { return detail::softmax_sizes(); }

  Size size;
  Tensor<T, 2> logits;
  Tensor<Token, 1> targets;
  Tensor<accumulator_t<T>, 1> losses;

  template <class Stored>
  CrossEntropyProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        logits{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::softmax_inputs)},
        targets{in.template integers<Token>(Shape<1>{s.rows}, s.D)},
        losses{unwritten<accumulator_t<T>>(Shape<1>{s.rows})} {
    if (s.rows > 2) targets(1) = -100;  // ignored
  }

  auto args(auto& place) {
    return CrossEntropyArgs<T>{.logits = place.in(logits), .targets = place.in(targets), .losses = place.out(losses)};
  }
  auto outputs() const { return std::tuple{Output{"losses", losses, detail::softmax_cost(size.D)}}; }
};

}  // namespace blackmamba::verify
