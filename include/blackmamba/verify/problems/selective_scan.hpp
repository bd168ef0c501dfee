#pragma once
/// \file
/// Problems for `selective_scan`, `selective_scan_step` and `projected_scan_step`.

#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct SelectiveScanSize {
  Index batch = 1, L = 0, D = 0, N = 0, groups = 1;
  bool with_D = true, with_z = true, with_bias = true, softplus = true, with_state = true;
  Index packed = 0;  ///< sequences packed along L; 0: none are
};

inline std::string to_string(SelectiveScanSize const& s) {
  return concat("batch ", s.batch, ", L ", s.L, ", D ", s.D, ", N ", s.N, ", groups ", s.groups, s.with_D ? ", D" : "",
                s.with_z ? ", z" : "", s.with_bias ? ", bias" : "", s.softplus ? ", softplus" : "", s.with_state ? ", state" : "",
                s.packed ? concat(", packed ", s.packed) : std::string{});
}

namespace detail {

/// Steps as a trained network has them: softplus(−1 ± 1) with it, positive without.
template <Scalar T, int Rank, class Stored>
Tensor<T, Rank> scan_steps(Inputs<Stored>& in, Shape<Rank> shape, bool softplus) {
  return softplus ? in.template storage<T>(shape, Normal{.centre = -1}) : in.template storage<T>(shape, Uniform{0.01, 0.7});
}
template <Scalar T, class Stored>
Tensor<T, 1> scan_bias(Inputs<Stored>& in, Index D) {
  return in.template storage<T>(Shape<1>{D}, Uniform{0.0, 0.3});
}
template <class A, class Stored>
Tensor<A, 2> scan_decay(Inputs<Stored>& in, Index D, Index N) {
  return in.template accumulator<A>(Shape<2>{D, N}, Uniform{-8, -0.1});
}

/// A state sums L inputs, an output N states. Inputs, B and C are of unit size, so what an output sums is, too.
inline Cost scan_cost(Index L, Index N) { return {.terms = static_cast<double>(L + N), .scale = 1}; }

}  // namespace detail

template <Scalar T>
struct SelectiveScanProblem {
  using Size = SelectiveScanSize;
  using A_t = accumulator_t<T>;
  static constexpr char const* name = "selective_scan";
  static constexpr auto operation = selective_scan;

  static std::vector<Size> sizes() {
    return {
        {.batch = 0, .L = 3, .D = 4, .N = 2},
        {.batch = 2, .L = 0, .D = 3, .N = 5},
        {.batch = 1, .L = 1, .D = 1, .N = 1},
        {.batch = 1, .L = 1, .D = 9, .N = 16},
        {.batch = 2, .L = 7, .D = 8, .N = 0},
        {.batch = 2, .L = 7, .D = 8, .N = 16, .with_D = false},
        {.batch = 1, .L = 17, .D = 7, .N = 3, .with_z = false},
        {.batch = 3, .L = 31, .D = 17, .N = 8, .with_bias = false},
        {.batch = 1, .L = 33, .D = 16, .N = 17, .softplus = false},
        {.batch = 2, .L = 29, .D = 12, .N = 4, .groups = 3},
        {.batch = 1, .L = 19, .D = 5, .N = 7, .groups = 5, .with_state = false},
        {.batch = 1, .L = 129, .D = 33, .N = 16},
        {.L = 41, .D = 9, .N = 16, .packed = 5},
        {.L = 3, .D = 8, .N = 5, .groups = 2, .packed = 7},
        {.L = 0, .D = 8, .N = 5, .packed = 2},
        {.batch = 1, .L = 23, .D = 31, .N = 2, .with_D = false, .with_z = false, .with_bias = false, .softplus = false},
    };
  }

  Size size;
  Tensor<T, 3> u, delta;
  Tensor<A_t, 2> A;
  Tensor<T, 4> B, C;
  Tensor<T, 1> D;
  Tensor<T, 3> z;
  Tensor<T, 1> delta_bias;
  Tensor<Index, 1> offsets;
  Tensor<A_t, 3> initial_state, last_state;
  Tensor<T, 3> y;

  template <class Stored>
  SelectiveScanProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        u{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        delta{detail::scan_steps<T>(in, Shape<3>{s.batch, s.L, s.D}, s.softplus)},
        A{detail::scan_decay<A_t>(in, s.D, s.N)},
        B{in.template storage<T>(Shape<4>{s.batch, s.L, s.groups, s.N})},
        C{in.template storage<T>(Shape<4>{s.batch, s.L, s.groups, s.N})},
        D{in.template storage<T>(Shape<1>{s.D})},
        z{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        delta_bias{detail::scan_bias<T>(in, s.D)},
        offsets{in.offsets(s.packed, s.L)},
        initial_state{in.template accumulator<A_t>(Shape<3>{s.packed ? s.packed : s.batch, s.D, s.N})},
        last_state{unwritten<A_t>(initial_state.shape())},
        y{unwritten<T>(Shape<3>{s.batch, s.L, s.D})} {}

  auto args(auto& place) {
    return SelectiveScanArgs<T>{.u = place.in(u),
                                .delta = place.in(delta),
                                .A = place.in(A),
                                .B = place.in(B),
                                .C = place.in(C),
                                .D = place.in(D, size.with_D),
                                .z = place.in(z, size.with_z),
                                .delta_bias = place.in(delta_bias, size.with_bias),
                                .delta_softplus = size.softplus,
                                .offsets = place.in(offsets, size.packed > 0),
                                .initial_state = place.in(initial_state, size.with_state),
                                .last_state = place.out(last_state, size.with_state),
                                .y = place.out(y)};
  }

  auto outputs() const {
    auto const cost = detail::scan_cost(size.L, size.N);
    return std::tuple{Output{"y", y, cost}, Output{"last_state", last_state, cost, size.with_state}};
  }
};

struct SelectiveScanStepSize {
  Index batch = 1, D = 0, N = 0, groups = 1;
  bool with_D = true, with_z = true, with_bias = true, softplus = true;
};

inline std::string to_string(SelectiveScanStepSize const& s) {
  return concat("batch ", s.batch, ", D ", s.D, ", N ", s.N, ", groups ", s.groups, s.with_D ? ", D" : "", s.with_z ? ", z" : "",
                s.with_bias ? ", bias" : "", s.softplus ? ", softplus" : "");
}

template <Scalar T>
struct SelectiveScanStepProblem {
  using Size = SelectiveScanStepSize;
  using A_t = accumulator_t<T>;
  static constexpr char const* name = "selective_scan_step";
  static constexpr auto operation = selective_scan_step;

  static std::vector<Size> sizes() {
    return {
        {.batch = 0, .D = 4, .N = 2},
        {.batch = 2, .D = 3, .N = 0},
        {.batch = 1, .D = 1, .N = 1},
        {.batch = 1, .D = 8, .N = 16},
        {.batch = 3, .D = 7, .N = 5, .with_D = false},
        {.batch = 2, .D = 9, .N = 17, .with_z = false},
        {.batch = 2, .D = 31, .N = 8, .with_bias = false},
        {.batch = 1, .D = 16, .N = 15, .softplus = false},
        {.batch = 5, .D = 12, .N = 3, .groups = 4},
        {.batch = 1, .D = 131, .N = 16},
    };
  }

  Size size;
  Tensor<T, 2> u, delta;
  Tensor<A_t, 2> A;
  Tensor<T, 3> B, C;
  Tensor<T, 1> D;
  Tensor<T, 2> z;
  Tensor<T, 1> delta_bias;
  Tensor<A_t, 3> state;
  Tensor<T, 2> y;

  template <class Stored>
  SelectiveScanStepProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        u{in.template storage<T>(Shape<2>{s.batch, s.D})},
        delta{detail::scan_steps<T>(in, Shape<2>{s.batch, s.D}, s.softplus)},
        A{detail::scan_decay<A_t>(in, s.D, s.N)},
        B{in.template storage<T>(Shape<3>{s.batch, s.groups, s.N})},
        C{in.template storage<T>(Shape<3>{s.batch, s.groups, s.N})},
        D{in.template storage<T>(Shape<1>{s.D})},
        z{in.template storage<T>(Shape<2>{s.batch, s.D})},
        delta_bias{detail::scan_bias<T>(in, s.D)},
        state{in.template accumulator<A_t>(Shape<3>{s.batch, s.D, s.N})},
        y{unwritten<T>(Shape<2>{s.batch, s.D})} {}

  auto args(auto& place) {
    return SelectiveScanStepArgs<T>{.u = place.in(u),
                                    .delta = place.in(delta),
                                    .A = place.in(A),
                                    .B = place.in(B),
                                    .C = place.in(C),
                                    .D = place.in(D, size.with_D),
                                    .z = place.in(z, size.with_z),
                                    .delta_bias = place.in(delta_bias, size.with_bias),
                                    .delta_softplus = size.softplus,
                                    .state = place.out(state),
                                    .y = place.out(y)};
  }

  auto outputs() const {
    auto const cost = detail::scan_cost(1, size.N);
    return std::tuple{Output{"y", y, cost}, Output{"state", state, cost}};
  }
};

struct ProjectedScanStepSize {
  Index batch = 1, D = 0, N = 0, R = 0, groups = 1;
  bool with_D = true, with_z = true, with_bias = true, softplus = true;
};

inline std::string to_string(ProjectedScanStepSize const& s) {
  return concat("batch ", s.batch, ", D ", s.D, ", N ", s.N, ", R ", s.R, ", groups ", s.groups, s.with_D ? ", D" : "",
                s.with_z ? ", z" : "", s.with_bias ? ", bias" : "", s.softplus ? ", softplus" : "");
}

template <Scalar T>
struct ProjectedScanStepProblem {
  using Size = ProjectedScanStepSize;
  using A_t = accumulator_t<T>;
  static constexpr char const* name = "projected_scan_step";
  static constexpr auto operation = projected_scan_step;

  static std::vector<Size> sizes() {
    return {
        {.batch = 0, .D = 4, .N = 2, .R = 3},
        {.batch = 2, .D = 0, .N = 2, .R = 3},
        {.batch = 2, .D = 3, .N = 0, .R = 4},
        {.batch = 1, .D = 1, .N = 1, .R = 1},
        {.batch = 1, .D = 8, .N = 16, .R = 0},
        {.batch = 1, .D = 40, .N = 16, .R = 72},
        {.batch = 3, .D = 7, .N = 5, .R = 2, .with_D = false},
        {.batch = 2, .D = 33, .N = 12, .R = 92, .with_z = false},
        {.batch = 2, .D = 31, .N = 8, .R = 96, .with_bias = false},
        {.batch = 2, .D = 9, .N = 16, .R = 100},
        {.batch = 2, .D = 9, .N = 20, .R = 8},
        {.batch = 1, .D = 16, .N = 16, .R = 12, .softplus = false},
        {.batch = 5, .D = 12, .N = 4, .R = 8, .groups = 4},
        {.batch = 67, .D = 131, .N = 16, .R = 16},
    };
  }

  Size size;
  Tensor<T, 2> u, dt, dt_weight, A_log;
  Tensor<T, 3> B, C;
  Tensor<T, 1> D;
  Tensor<T, 2> z;
  Tensor<T, 1> delta_bias;
  Tensor<A_t, 3> state;
  Tensor<T, 2> y;

  template <class Stored>
  ProjectedScanStepProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        u{in.template storage<T>(Shape<2>{s.batch, s.D})},
        dt{s.softplus ? in.template storage<T>(Shape<2>{s.batch, s.R}) : in.template storage<T>(Shape<2>{s.batch, s.R}, Uniform{})},
        dt_weight{s.softplus ? in.template storage<T>(Shape<2>{s.D, s.R}, Normal{.spread = weight_size(s)})
                             : in.template storage<T>(Shape<2>{s.D, s.R}, Uniform{0.0, weight_size(s)})},
        A_log{in.template storage<T>(Shape<2>{s.D, s.N}, Uniform{-2, 2})},
        B{in.template storage<T>(Shape<3>{s.batch, s.groups, s.N})},
        C{in.template storage<T>(Shape<3>{s.batch, s.groups, s.N})},
        D{in.template storage<T>(Shape<1>{s.D})},
        z{in.template storage<T>(Shape<2>{s.batch, s.D})},
        delta_bias{detail::scan_bias<T>(in, s.D)},
        state{in.template accumulator<A_t>(Shape<3>{s.batch, s.D, s.N})},
        y{unwritten<T>(Shape<2>{s.batch, s.D})} {}

  auto args(auto& place) {
    return ProjectedScanStepArgs<T>{.u = place.in(u),
                                    .dt = place.in(dt),
                                    .dt_weight = place.in(dt_weight),
                                    .A_log = place.in(A_log),
                                    .B = place.in(B),
                                    .C = place.in(C),
                                    .D = place.in(D, size.with_D),
                                    .z = place.in(z, size.with_z),
                                    .delta_bias = place.in(delta_bias, size.with_bias),
                                    .delta_softplus = size.softplus,
                                    .state = place.out(state),
                                    .y = place.out(y)};
  }

  /// An error of a step size is multiplied by the decay, of up to exp(2), in the exponent: |A| exp(δ A) is that where δ is small.
  auto outputs() const {
    Cost const cost{.terms = static_cast<double>(1 + size.N + size.R), .gain = 8, .scale = 1};
    return std::tuple{Output{"y", y, cost}, Output{"state", state, cost}};
  }

 private:
  /// Projections are of unit size.
  static double weight_size(Size const& s) { return 1 / std::sqrt(static_cast<double>(std::max(s.R, Index{1}))); }
};

}  // namespace blackmamba::verify
