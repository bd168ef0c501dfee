#pragma once
/// \file
/// Balanced assignment: the plan between tokens and experts whose rows and columns have equal sums and whose entries follow the
/// logits. Two ways to it: the published iteration on exp(s x), and the same iteration on logarithms, which has no range to leave.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// What d1 is before the first iteration of `sinkhorn`.
enum class SinkhornStart {
  column_sums,  ///< 1 / (E Σ_i c_ij), the published BlackMamba's: the columns are even at once, the rows are not
  ones,         ///< 1, Megatron's
};

/// How an iteration ended.
struct SinkhornReport {
  Index iterations = 0;       ///< how often the rows were scaled
  double marginal_error = 0;  ///< of the plan as written: the largest |sum - target| / target over its rows and columns
  bool converged = false;     ///< whether the tolerance was met within max_iterations
};

/// Arguments of `sinkhorn`, the published form.
template <Scalar T>
struct SinkhornArgs {
  View<T const, 2> logits{};         ///< (tokens, E)
  View<accumulator_t<T>, 2> plan{};  ///< (tokens, E) out
  double tolerance = 1e-4;           ///< on mean_j |d1_j - its previous value|
  Index max_iterations = 10000;
  double sharpness = 2;  ///< s: what the logits are multiplied by; Megatron's is 1
  SinkhornStart start = SinkhornStart::column_sums;
  View<SinkhornReport, 1> report{};  ///< optional (1) out, where the context computes
};

/// Arguments of `sinkhorn_log`.
template <Scalar T>
struct SinkhornLogArgs {
  View<T const, 2> logits{};         ///< (tokens, E)
  View<accumulator_t<T>, 2> plan{};  ///< (tokens, E) out
  double tolerance = 1e-12;          ///< on the marginal error
  Index max_iterations = 100;
  View<accumulator_t<T>, 1> potentials{};  ///< optional (E) in: g to start from; out: g of the plan
  double sharpness = 2;                    ///< s: what the logits are multiplied by
  View<SinkhornReport, 1> report{};        ///< optional (1) out, where the context computes
};

namespace detail {

template <class Args>
void check_sinkhorn(char const* op, Args const& a) {
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  check_shape(op, "plan", a.plan, a.logits.shape(), "logits");
  check_value(tokens == 0 || E >= 1, op, "logits has ", tokens, " tokens and no expert to give them to");
  check_value(a.tolerance >= 0, op, "tolerance is ", a.tolerance, ", not at least 0");
  check_value(a.max_iterations >= 1, op, "max_iterations is ", a.max_iterations, ", not at least 1");
  check_value(a.sharpness - a.sharpness == 0, op, "sharpness is ", a.sharpness, ", not finite");
  if (a.report) check_shape(op, "report", a.report, Shape<1>{1}, "the one report");
}

/// What `solve()` returns, kept in `a.report` too; without tokens there is nothing to solve.
template <class Args, class Solve>
SinkhornReport reported(Args const& a, Solve const& solve) {
  SinkhornReport const out = a.logits.extent(0) == 0 ? SinkhornReport{.converged = true} : solve();
  if (a.report) a.report[0] = out;
  return out;
}

struct sinkhorn_fn {
  template <class Ctx, Scalar T>
  auto operator()(Ctx const& ctx, SinkhornArgs<T> const& a) const {
    check_sinkhorn("sinkhorn", a);
    ProfileRange const range{"sinkhorn"};
    if constexpr (std::derived_from<Ctx, Reference>)
      return reported(a, [&] { return sinkhorn_on(ctx, a); });
    else
      sinkhorn_on(ctx, a);
  }
};

struct sinkhorn_log_fn {
  template <class Ctx, Scalar T>
  auto operator()(Ctx const& ctx, SinkhornLogArgs<T> const& a) const {
    check_sinkhorn("sinkhorn_log", a);
    if (a.potentials) check_shape("sinkhorn_log", "potentials", a.potentials, Shape<1>{a.logits.extent(1)}, "logits");
    ProfileRange const range{"sinkhorn_log"};
    if constexpr (std::derived_from<Ctx, Reference>)
      return reported(a, [&] { return sinkhorn_log_on(ctx, a); });
    else
      sinkhorn_log_on(ctx, a);
  }
};

}  // namespace detail

/// Sinkhorn's iteration as the published BlackMamba runs it (s = 2), or as Megatron does (s = 1, start at ones), with a cap. With
/// c_ij = exp(s x_ij), n tokens, ε = 1e-8 and d1 as `start` says, each iteration does
///
///   d0_i ← (1/n) / (Σ_j d1_j c_ij + ε) ;   d1_j ← (1/E) / (Σ_i d0_i c_ij + ε)
///
/// until mean_j |d1_j - previous d1_j| ≤ tolerance, and the plan is P_ij = d0_i c_ij d1_j. That difference is absolute, and P does
/// not change when d1 grows by a factor that d0 loses: from column sums d1 is about 1 / (n E), so that many tokens meet any
/// tolerance at once; from ones it stays near 1, and can stay above a small tolerance for ever: the iteration then ends at
/// `max_iterations` and reports converged = false.
///
/// Shapes: logits, plan (tokens, E), any strides; report (1), overwritten. Read in `T`, computed and written in accumulator_t<T>.
/// `plan` may alias `logits` where both have that scalar. No tokens: nothing is done, converged. Waits for its result, and returns
/// it, on contexts of the host; on others it returns nothing, and the report is where the context computes. Throws `shape_error` on
/// extents that disagree, and `value_error` on a logit that is not finite (naming token and expert) and where exp(s x) leaves the
/// range of the accumulator (naming the expert): `sinkhorn_log` has no such limit.
/// Source: Anthony et al. 2024, arXiv:2402.01771, and its published code; Megatron-LM's published code; Sinkhorn & Knopp 1967.
inline constexpr detail::sinkhorn_fn sinkhorn{};

/// Sinkhorn's iteration on logarithms, for any finite logits. With n tokens and g from `potentials`, or zero, each iteration does
///
///   f_i = -log n - logsumexp_j(s x_ij + g_j) ;   P_ij = exp(s x_ij + f_i + g_j)
///
/// and, while the marginal error of P is above the tolerance, g_j ← -log E - logsumexp_i(s x_ij + f_i). So each row of the plan
/// sums to 1/n up to rounding, and the columns to 1/E up to the reported error. It ends, too, where g has stopped to change: a
/// tolerance below what the accumulator resolves is reported as not met, not iterated for.
///
/// Shapes: logits, plan (tokens, E), any strides; potentials (E); report (1), overwritten. Read in `T`, computed and written in
/// accumulator_t<T>. The potentials of one batch are a good start for the next one. `plan` may alias `logits` where both have that
/// scalar. No tokens: nothing is done, converged. Waits for its result, and returns it, on contexts of the host; on others it
/// returns nothing, and the report is where the context computes. Throws `shape_error` on extents that disagree, and `value_error`
/// naming token and expert of a logit that is not finite or, times s, within a factor of 8 of the accumulator's largest number, or
/// the expert of a potential that is not finite; nothing is written then, by contexts of the host.
/// Source: Cuturi 2013, arXiv:1306.0895; in the log domain Peyré & Cuturi 2019, arXiv:1803.00567, section 4.4.
inline constexpr detail::sinkhorn_log_fn sinkhorn_log{};

}  // namespace blackmamba

#include <blackmamba/ops/sinkhorn/cpu.hpp>
#include <blackmamba/ops/sinkhorn/reference.hpp>
