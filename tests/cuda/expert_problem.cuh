#pragma once
// Problems of the experts' networks: what goes in, and everything that comes out forward and backward.

#include <blackmamba/verify/problems/expert_mlp.hpp>

#include <cmath>
#include <limits>

#include "cuda/support.cuh"

namespace test {

/// Experts with so many rows each, and some rows that belong to none, whose values are NaN.
struct ExpertSize {
  std::vector<Index> counts;
  Index D, F;
  Activation kind = Activation::gelu_erf;
  bool gated = true, biases = true, hidden = true;
  Index dropped = 0;
};
inline std::string describe(ExpertSize const& s) {
  std::string counts;
  for (Index c : s.counts) counts += concat(" ", c);
  return concat("rows", counts, " and ", s.dropped, ", D ", s.D, ", F ", s.F, ", ", to_string(s.kind), s.gated ? ", gated" : "",
                s.biases ? ", biases" : "", s.hidden ? ", hidden" : "");
}

/// A tensor whose rows are `gap` elements further apart, with `filler` between them.
template <class T, int Rank>
Tensor<T, Rank> spaced(Tensor<T, Rank> const& tensor, Index gap, T filler) {
  auto shape = tensor.shape();
  Index const length = shape[Rank - 1], pitch = shape[Rank - 1] += gap;
  Tensor<T, Rank> out{shape};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = i % pitch < length ? tensor.data()[i / pitch * length + i % pitch] : filler;
  return out;
}
/// The rows of such a tensor alone, where they lie.
template <class T, int Rank>
View<T, Rank> rows_of(View<T, Rank> const& view, Index gap) {
  return view ? view.slice(Rank - 1, 0, view.extent(Rank - 1) - gap) : view;
}
/// Takes the rows of such a tensor; how much there is between them that is not the filler any more.
template <class T, int Rank>
Index take_rows(Tensor<T, Rank>& to, Tensor<T, Rank> const& from, Index gap, T filler) {
  Index const length = to.shape()[Rank - 1], pitch = length + gap;
  Index written = 0;
  for (Index i = 0; i < from.size(); ++i)
    if (i % pitch < length)
      to.data()[i / pitch * length + i % pitch] = from.data()[i];
    else
      written += widen(from.data()[i]) != widen(filler);
  return written;
}

template <class T>
struct ExpertGradients {
  using A = accumulator_t<T>;
  Tensor<T, 2> x;
  Tensor<A, 3> fc1, fc2;
  Tensor<A, 2> bias1, bias2;
  template <class U>
  void each(ExpertGradients<U> const& other, auto&& body) const {
    body("x", x, other.x), body("fc1", fc1, other.fc1), body("bias1", bias1, other.bias1);
    body("fc2", fc2, other.fc2), body("bias2", bias2, other.bias2);
  }
};

template <class T>
struct ExpertProblem {
  using A = accumulator_t<T>;
  ExpertSize s;
  Index E, rows, D, F, F1;
  Tensor<Index, 1> offsets;
  Tensor<T, 2> x, d_y;
  Tensor<T, 3> fc1, fc2;
  Tensor<T, 2> bias1, bias2;

  explicit ExpertProblem(ExpertSize const& size)
      : s{size}, E{static_cast<Index>(s.counts.size())}, D{s.D}, F{s.F}, F1{s.gated ? 2 * s.F : s.F}, offsets{Shape{E + 1}} {
    for (Index e = 0; e < E; ++e) offsets(e + 1) = offsets(e) + s.counts[static_cast<std::size_t>(e)];
    rows = offsets(E) + s.dropped;
    auto const fan = [](Index n) { return 1 / std::sqrt(static_cast<double>(std::max(n, Index{1}))); };
    x = random_tensor<T>(Shape{rows, D}, 1), d_y = random_tensor<T>(Shape{rows, D}, 6);
    fc1 = random_tensor<T>(Shape{E, F1, D}, 2, fan(D)), fc2 = random_tensor<T>(Shape{E, D, F}, 3, fan(F));
    bias1 = random_tensor<T>(Shape{E, F1}, 4, 0.5), bias2 = random_tensor<T>(Shape{E, D}, 5, 0.5);
    for (Index r = offsets(E); r < rows; ++r)
      for (Index d = 0; d < D; ++d) x(r, d) = d_y(r, d) = static_cast<T>(std::numeric_limits<A>::quiet_NaN());
  }

  template <class To>
  ExpertProblem<To> as() const {
    ExpertProblem<To> out{ExpertSize{{}, D, F}};
    out.s = s, out.E = E, out.rows = rows, out.F1 = F1, out.offsets = offsets.clone();
    out.x = converted<To>(x), out.d_y = converted<To>(d_y), out.fc1 = converted<To>(fc1), out.fc2 = converted<To>(fc2);
    out.bias1 = converted<To>(bias1), out.bias2 = converted<To>(bias2);
    return out;
  }

  ExpertGradients<T> start() const {
    ExpertGradients<T> out{Tensor<T, 2>{x.shape()}, random_tensor<A>(fc1.shape(), 7), random_tensor<A>(fc2.shape(), 8),
                           random_tensor<A>(bias1.shape(), 9), random_tensor<A>(bias2.shape(), 10)};
    for (T& v : out.x) v = static_cast<T>(A(77));
    return out;
  }

  /// y, h and the gradients.
  struct Outputs {
    Tensor<T, 2> y, hidden;
    ExpertGradients<T> d;
    Index spilled = 0;  ///< elements between rows that were written
  };
  /// With rows `gap` elements apart, those of the weights' gradients `float_gap`: NaN lies between what is read.
  template <class Ctx>
  Outputs run(Ctx const& ctx, Index gap = 0, Index float_gap = 0) const {
    Outputs out{Tensor<T, 2>{x.shape()}, Tensor<T, 2>{Shape{rows, F1}}, start()};
    for (T& v : out.y) v = static_cast<T>(A(77));
    for (T& v : out.hidden) v = static_cast<T>(A(77));
    auto const nan = static_cast<T>(std::numeric_limits<A>::quiet_NaN()), untouched = static_cast<T>(A(55));
    auto const in_x = spaced(x, gap, nan), in_d_y = spaced(d_y, gap, nan);
    auto const in_fc1 = spaced(fc1, gap, nan), in_fc2 = spaced(fc2, gap, nan);
    auto to_y = spaced(out.y, gap, untouched), to_h = spaced(out.hidden, gap, untouched), to_x = spaced(out.d.x, gap, untouched);
    auto to_fc1 = spaced(out.d.fc1, float_gap, A(55)), to_fc2 = spaced(out.d.fc2, float_gap, A(55));
    verify::Placement<Ctx> place{ctx};
    ExpertMlpArgs<T> const f{.x = rows_of(place.in(in_x), gap),
                             .offsets = place.in(offsets),
                             .fc1 = rows_of(place.in(in_fc1), gap),
                             .bias1 = place.in(bias1, s.biases),
                             .fc2 = rows_of(place.in(in_fc2), gap),
                             .bias2 = place.in(bias2, s.biases),
                             .activation = s.kind,
                             .gated = s.gated,
                             .y = rows_of(place.out(to_y), gap),
                             .hidden = rows_of(place.out(to_h, s.hidden), gap)};
    expert_mlp(ctx, f);
    expert_mlp_backward(ctx, ExpertMlpBackwardArgs<T>{.x = f.x,
                                                      .offsets = f.offsets,
                                                      .fc1 = f.fc1,
                                                      .bias1 = f.bias1,
                                                      .fc2 = f.fc2,
                                                      .bias2 = f.bias2,
                                                      .activation = s.kind,
                                                      .gated = s.gated,
                                                      .d_y = rows_of(place.in(in_d_y), gap),
                                                      .d_x = rows_of(place.out(to_x), gap),
                                                      .d_fc1 = rows_of(place.out(to_fc1), float_gap),
                                                      .d_bias1 = place.out(out.d.bias1),
                                                      .d_fc2 = rows_of(place.out(to_fc2), float_gap),
                                                      .d_bias2 = place.out(out.d.bias2),
                                                      .hidden = f.hidden});
    place.finish();
    for (auto [to, from] : {std::pair{&out.y, &to_y}, {&out.hidden, &to_h}, {&out.d.x, &to_x}})
      out.spilled += take_rows(*to, *from, gap, untouched);
    out.spilled += take_rows(out.d.fc1, to_fc1, float_gap, A(55)) + take_rows(out.d.fc2, to_fc2, float_gap, A(55));
    return out;
  }

  verify::Cost forward_cost() const { return {.terms = static_cast<double>(D + F), .roundings = s.gated ? 4.0 : 3.0, .scale = 1}; }
  /// As for the CPU: h, d_a, both halves of d_h and d_x are stored, and through the curvature of the activation an error of h
  /// reaches the result as often as one of d_h.
  verify::Cost backward_cost() const {
    return {.terms = static_cast<double>(2 * D + F1 + rows), .roundings = s.gated ? 6.0 : 4.0, .scale = 1};
  }
};

template <class T>
auto within(verify::Cost const& cost) {
  return [cost](double value, double scale) { return verify::allowed_error<T>(cost, value, scale); };
}

}  // namespace test
