#pragma once
/// \file
/// Both forms of Sinkhorn's iteration, plainly.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

namespace blackmamba {

namespace detail {

/// What the published code adds to both sums.
inline constexpr double sinkhorn_epsilon = 1e-8;

template <Scalar T>
void check_finite_logits(char const* op, View<T const, 2> logits) {
  for (Index i = 0; i < logits.extent(0); ++i)
    for (Index j = 0; j < logits.extent(1); ++j)
      check_value(isfinite(widen(logits(i, j))), op, "the logit of token ", i, " for expert ", j, " is ",
                  static_cast<double>(widen(logits(i, j))), ", not finite");
}

/// Room above s · x for the sums of it with potentials.
inline constexpr double sinkhorn_headroom = 8;

/// Throws unless every logit is finite, and stays so with the sharpness and some room.
template <Scalar T>
void check_log_range(View<T const, 2> logits, double sharpness) {
  using A = accumulator_t<T>;
  check_finite_logits("sinkhorn_log", logits);
  for (Index i = 0; i < logits.extent(0); ++i)
    for (Index j = 0; j < logits.extent(1); ++j)
      check_value(isfinite(A(sharpness) * widen(logits(i, j)) * A(sinkhorn_headroom)), "sinkhorn_log", "the logit of token ", i,
                  " for expert ", j, " is ", static_cast<double>(widen(logits(i, j))), ", with a sharpness of ", sharpness,
                  " too large for the accumulator");
}

template <class A>
void check_finite_potentials(View<A, 1> potentials) {
  for (Index j = 0; j < potentials.extent(0); ++j)
    check_value(isfinite(potentials(j)), "sinkhorn_log", "the potential of expert ", j, " is ", static_cast<double>(potentials(j)),
                ", not finite");
}

/// Throws unless 1 / (E Σ_i exp(s x_ij)) exists in the accumulator.
template <class A>
void check_column_sum(A sum, Index expert) {
  check_value(isfinite(sum) && sum > A(0), "sinkhorn", "exp(s x) of expert ", expert, " sums to ", static_cast<double>(sum),
              ": the logits are beyond the range of this form, use sinkhorn_log");
}

/// Throws unless the published iteration stayed within the range of the accumulator.
inline void check_still_finite(double value, Index iterations) {
  check_value(value - value == 0, "sinkhorn", "the plan is not finite after ", iterations,
              " iterations: the logits are beyond the range of this form, use sinkhorn_log");
}

/// The largest relative deviation of the plan's rows from 1/tokens and of its columns from 1/E; NaN if any entry is.
/// `columns` is room for E sums.
template <class A>
double marginal_error(View<A const, 2> plan, View<A, 1> columns) {
  Index const tokens = plan.extent(0), E = plan.extent(1);
  double worst = 0;
  auto const meet = [&](A sum, Index parts) {
    double const error = static_cast<double>(abs(sum * A(parts) - A(1)));
    worst = error > worst || error != error ? error : worst;
  };
  for (Index j = 0; j < E; ++j) columns(j) = A(0);
  for (Index i = 0; i < tokens && worst == worst; ++i) {
    A row{0};
    for (Index j = 0; j < E; ++j) {
      row += plan(i, j);
      columns(j) += plan(i, j);
    }
    meet(row, tokens);
  }
  for (Index j = 0; j < E && worst == worst; ++j) meet(columns(j), E);
  return worst;
}

/// Σ_k exp(term(k) - largest) and the largest term, over k in [0, count) with count ≥ 1. Their logsumexp is largest + log(sum).
template <class A>
struct ShiftedSum {
  A largest, sum;

  template <class Term>
  static ShiftedSum of(Index count, Term const& term) {
    A largest = term(0);
    for (Index k = 1; k < count; ++k)
      if (A const t = term(k); t > largest) largest = t;
    A sum{0};
    for (Index k = 0; k < count; ++k) sum += exp(term(k) - largest);
    return {largest, sum};
  }
  A log_sum_exp() const { return largest + log(sum); }
};

}  // namespace detail

template <Scalar T>
SinkhornReport sinkhorn_on(Reference const& ctx, SinkhornArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_finite_logits("sinkhorn", a.logits);
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  A const epsilon = A(detail::sinkhorn_epsilon);
  auto const scope = ctx.scratch().scope();
  auto const d0 = ctx.scratch().take<A>(Shape<1>{tokens}), d1 = ctx.scratch().take<A>(Shape<1>{E});
  auto const columns = ctx.scratch().take<A>(Shape<1>{E});

  auto const cost = a.plan;
  for (Index j = 0; j < E; ++j) {
    A sum{0};
    for (Index i = 0; i < tokens; ++i) sum += cost(i, j) = exp(A(a.sharpness) * widen(a.logits(i, j)));
    detail::check_column_sum(sum, j);
    d1(j) = a.start == SinkhornStart::ones ? A(1) : A(1) / (A(E) * sum);
  }

  SinkhornReport report;
  while (!report.converged && report.iterations < a.max_iterations) {
    for (Index i = 0; i < tokens; ++i) {
      A sum{0};
      for (Index j = 0; j < E; ++j) sum += d1(j) * cost(i, j);
      d0(i) = A(1) / A(tokens) / (sum + epsilon);
    }
    A change{0};
    for (Index j = 0; j < E; ++j) {
      A sum{0};
      for (Index i = 0; i < tokens; ++i) sum += d0(i) * cost(i, j);
      A const next = A(1) / A(E) / (sum + epsilon);
      change += abs(d1(j) - next);
      d1(j) = next;
    }
    ++report.iterations;
    detail::check_still_finite(static_cast<double>(change), report.iterations);
    report.converged = static_cast<double>(change / A(E)) <= a.tolerance;
  }
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j < E; ++j) a.plan(i, j) = d1(j) * cost(i, j) * d0(i);
  report.marginal_error = detail::marginal_error(View<A const, 2>{a.plan}, columns);
  detail::check_still_finite(report.marginal_error, report.iterations);
  return report;
}

template <Scalar T>
SinkhornReport sinkhorn_log_on(Reference const& ctx, SinkhornLogArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_log_range(a.logits, a.sharpness);
  if (a.potentials) detail::check_finite_potentials(a.potentials);
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  auto const scope = ctx.scratch().scope();
  auto const x = ctx.scratch().take<A>(Shape<2>{tokens, E});
  auto const f = ctx.scratch().take<A>(Shape<1>{tokens}), g = ctx.scratch().take<A>(Shape<1>{E});
  auto const columns = ctx.scratch().take<A>(Shape<1>{E});
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j < E; ++j) x(i, j) = A(a.sharpness) * widen(a.logits(i, j));
  for (Index j = 0; j < E; ++j) g(j) = a.potentials ? a.potentials(j) : A(0);

  SinkhornReport report;
  for (bool changed = true; changed;) {
    for (Index i = 0; i < tokens; ++i) {
      auto const row = detail::ShiftedSum<A>::of(E, [&](Index j) { return x(i, j) + g(j); });
      f(i) = -log(A(tokens)) - row.log_sum_exp();
      // exp(x + f + g) with the row's sum divided out, not subtracted as a logarithm: large logits leave f few digits after the
      // point.
      for (Index j = 0; j < E; ++j) a.plan(i, j) = exp(x(i, j) + g(j) - row.largest) / (row.sum * A(tokens));
    }
    ++report.iterations;
    report.marginal_error = detail::marginal_error(View<A const, 2>{a.plan}, columns);
    report.converged = report.marginal_error <= a.tolerance;
    changed = false;
    if (report.converged || report.iterations == a.max_iterations) break;
    for (Index j = 0; j < E; ++j) {
      A const next = -log(A(E)) - detail::ShiftedSum<A>::of(tokens, [&](Index i) { return x(i, j) + f(i); }).log_sum_exp();
      changed = changed || !(next == g(j));
      g(j) = next;
    }
  }
  if (a.potentials)
    for (Index j = 0; j < E; ++j) a.potentials(j) = g(j);
  return report;
}

}  // namespace blackmamba
