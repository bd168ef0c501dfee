#pragma once
/// \file
/// Losses of routers, each with its gradient: evenness, small logits, few experts. None of them reads the network's targets.

#include <blackmamba/core/sequences.hpp>
#include <blackmamba/ops/route/gate.hpp>

namespace blackmamba {

/// Arguments of `balance_loss`.
template <Scalar T>
struct BalanceLossArgs {
  View<T const, 2> logits{};       ///< (tokens, E)
  View<int const, 2> experts{};    ///< (tokens, slots) as chosen; -1: none
  View<Index const, 1> offsets{};  ///< optional (S + 1): a loss for each sequence, averaged; absent: one for all tokens
  View<accumulator_t<T> const, 1>
      counts{};                      ///< optional (E): the assignments to count, for all sequences; absent: those of experts
  double coefficient = 1;            ///< of the loss and the gradient
  double scale = 1;                  ///< of the gradient alone
  View<accumulator_t<T>, 1> loss{};  ///< optional (1), added to
  View<T, 2> d_logits{};             ///< optional (tokens, E), added to
};

/// Arguments of `router_z_loss`.
template <Scalar T>
struct RouterZLossArgs {
  View<T const, 2> logits{};         ///< (tokens, E)
  double coefficient = 1;            ///< of the loss and the gradient
  double scale = 1;                  ///< of the gradient alone
  View<accumulator_t<T>, 1> loss{};  ///< optional (1), added to
  View<T, 2> d_logits{};             ///< optional (tokens, E), added to
};

/// Arguments of `sparsity_loss`.
template <Scalar T>
struct SparsityLossArgs {
  View<T const, 2> logits{};           ///< (tokens, E)
  Index k = 1;                         ///< experts that a token should have
  double coefficient = 1;              ///< of the loss and the gradient
  View<T const, 1> log_coefficient{};  ///< optional (1): the coefficient is times e to this
  double scale = 1;                    ///< of the gradient alone
  View<accumulator_t<T>, 1> loss{};    ///< optional (1), added to
  View<T, 2> d_logits{};               ///< optional (tokens, E), added to
};

namespace detail {

template <Scalar T>
BLACKMAMBA_HOST_DEVICE T added(T to, accumulator_t<T> x) {
  return static_cast<T>(widen(to) + x);
}

/// One token's part in the gradient of the balancing loss: factor · p_e (share_e - Σ_j share_j p_j), added.
template <Scalar T, class A>
BLACKMAMBA_HOST_DEVICE void balance_gradient(View<A const, 1> p, View<A const, 1> share, A factor, View<T, 1> d_logits) {
  Index const E = p.extent(0);
  A of_token{0};
  for (Index e = 0; e < E; ++e) of_token += share(e) * p(e);
  for_each_four(
      E, [&](Index e) { return added(d_logits(e), factor * p(e) * (share(e) - of_token)); }, d_logits);
}

/// One token's z² and its gradient.
template <Scalar T>
struct ZLossRule {
  using A = accumulator_t<T>;
  RouterZLossArgs<T> a;
  View<A, 1> of_token;  // (tokens) out
  A factor;             // of the gradient, without the number of tokens
  A count;              // tokens

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    TokenGate<T> gate{a.logits[i], {}, Gate::softmax, false};
    gate.prepare();
    A const z = gate.top + gate_log(gate.sum);
    of_token(i) = z * z;
    if (!a.d_logits) return;
    for_each_four(
        a.logits.extent(1), [&](Index e) { return added(a.d_logits(i, e), factor * z * gate.share(e) / count); }, a.d_logits[i]);
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { of_token(i) = A(0); }
};

/// What a loss is to its caller: the number itself, and added where it was asked for.
template <class Args, class A>
A told(Args const& a, double coefficient, A loss) {
  if (a.loss) a.loss(0) += A(coefficient) * loss;
  return loss;
}

template <class Args>
void check_loss(char const* op, Args const& a) {
  if (a.loss) check_shape(op, "loss", a.loss, Shape<1>{1}, "its one element");
  if (a.d_logits) check_shape(op, "d_logits", a.d_logits, a.logits.shape(), "logits");
}

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
accumulator_t<T> balance_loss_on(Ctx const& ctx, BalanceLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1), slots = a.experts.extent(1);
  detail::check_experts("balance_loss", a.experts, E);
  detail::check_gate_logits("balance_loss", a.logits, Gate::softmax, false);
  Sequences const sequences{"balance_loss", a.offsets, 1, tokens};
  auto const scope = ctx.scratch().scope();
  auto const p = ctx.scratch().template take<A>(Shape<2>{tokens, E});
  auto const share = ctx.scratch().template take<A>(Shape<1>{E}), mean = ctx.scratch().template take<A>(Shape<1>{E});
  detail::for_each_token(ctx, tokens, E, detail::ScoresRule<T>{{.logits = a.logits, .gate = Gate::softmax, .scores = p}});

  Index present = 0;
  for (Index s = 0; s < sequences.count(); ++s) present += sequences[s].begin < sequences[s].end;
  A total{0};
  // Sums in the order of tokens, so that the number of threads does not show.
  for (Index s = 0; s < sequences.count(); ++s) {
    Index const begin = sequences[s].begin, end = sequences[s].end;
    if (begin == end) continue;
    A const length(static_cast<double>(end - begin));
    for (Index e = 0; e < E; ++e) share(e) = a.counts ? a.counts(e) : A(0), mean(e) = A(0);
    for (Index i = begin; i < end; ++i)
      for (Index e = 0; e < E; ++e) mean(e) += p(i, e);
    for (Index e = 0; e < E; ++e) mean(e) /= length;
    if (!a.counts)
      for (Index i = begin; i < end; ++i)
        for (Index slot = 0; slot < slots; ++slot)
          if (int const e = a.experts(i, slot); e >= 0) share(e) += A(1);
    A assigned{0}, loss{0};
    for (Index e = 0; e < E; ++e) assigned += share(e);
    if (!(assigned > A(0))) continue;
    for (Index e = 0; e < E; ++e) loss += (share(e) *= A(static_cast<double>(E)) / assigned) * mean(e);
    total += loss;
    if (!a.d_logits) continue;
    A const factor = A(a.scale * a.coefficient) / (length * A(static_cast<double>(present)));
    detail::for_each_token(ctx, end - begin, E, [&](Index row) {
      detail::balance_gradient(View<A const, 1>{p[begin + row]}, View<A const, 1>{share}, factor, a.d_logits[begin + row]);
    });
  }
  return detail::told(a, a.coefficient, present > 0 ? total / A(static_cast<double>(present)) : total);
}

template <std::derived_from<Reference> Ctx, Scalar T>
accumulator_t<T> router_z_loss_on(Ctx const& ctx, RouterZLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  detail::check_gate_logits("router_z_loss", a.logits, Gate::softmax, false);
  if (tokens == 0 || E == 0) return A(0);
  auto const scope = ctx.scratch().scope();
  auto const of_token = ctx.scratch().template take<A>(Shape<1>{tokens});
  A const count(static_cast<double>(tokens));
  detail::for_each_token(ctx, tokens, E, detail::ZLossRule<T>{a, of_token, A(2 * a.scale * a.coefficient), count});
  A total{0};
  for (Index i = 0; i < tokens; ++i) total += of_token(i);
  return detail::told(a, a.coefficient, total / count);
}

template <std::derived_from<Reference> Ctx, Scalar T>
accumulator_t<T> sparsity_loss_on(Ctx const& ctx, SparsityLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  detail::check_no_nan("sparsity_loss", a.logits);
  if (tokens == 0) return A(0);
  auto const scope = ctx.scratch().scope();
  auto const factor = ctx.scratch().template take<A>(Shape<1>{E}), sum = ctx.scratch().template take_zeros<A>(Shape<1>{E});
  auto const active = ctx.scratch().template take_zeros<Index>(Shape<1>{E});
  double const n = static_cast<double>(tokens), k = static_cast<double>(a.k);
  double const coefficient = a.coefficient * (a.log_coefficient ? std::exp(static_cast<double>(widen(a.log_coefficient(0)))) : 1.0);
  for (Index i = 0; i < tokens; ++i)
    for (Index e = 0; e < E; ++e)
      if (A const x = widen(a.logits(i, e)); x > A(0)) sum(e) += x, ++active(e);
  A total{0};
  for (Index e = 0; e < E; ++e) {
    factor(e) = A(static_cast<double>(E) * static_cast<double>(active(e)) / (k * n * n));
    total += factor(e) * sum(e);
  }
  if (a.d_logits)
    detail::for_each_token(ctx, tokens, E, [&](Index i) {
      for (Index e = 0; e < E; ++e)
        if (widen(a.logits(i, e)) > A(0)) a.d_logits(i, e) = detail::added(a.d_logits(i, e), A(a.scale * coefficient) * factor(e));
    });
  return detail::told(a, coefficient, total);
}

namespace detail {

struct balance_loss_fn {
  template <class Ctx, Scalar T>
  auto operator()(Ctx const& ctx, BalanceLossArgs<T> const& a) const {
    constexpr char const* op = "balance_loss";
    check_shape(op, "experts", a.experts, Shape<2>{a.logits.extent(0), a.experts.extent(1)}, "logits");
    if (a.counts) check_shape(op, "counts", a.counts, Shape<1>{a.logits.extent(1)}, "logits");
    check_loss(op, a);
    ProfileRange const range{op};
    return balance_loss_on(ctx, a);
  }
};

struct router_z_loss_fn {
  template <class Ctx, Scalar T>
  auto operator()(Ctx const& ctx, RouterZLossArgs<T> const& a) const {
    check_loss("router_z_loss", a);
    ProfileRange const range{"router_z_loss"};
    return router_z_loss_on(ctx, a);
  }
};

struct sparsity_loss_fn {
  template <class Ctx, Scalar T>
  auto operator()(Ctx const& ctx, SparsityLossArgs<T> const& a) const {
    check_value(a.k >= 1, "sparsity_loss", "k is ", a.k, ", not at least 1");
    check_loss("sparsity_loss", a);
    if (a.log_coefficient) check_shape("sparsity_loss", "log_coefficient", a.log_coefficient, Shape<1>{1}, "its one element");
    ProfileRange const range{"sparsity_loss"};
    return sparsity_loss_on(ctx, a);
  }
};

}  // namespace detail

/// The load-balancing loss of the Switch transformer, 1 when all is even. With n tokens, p = softmax(logits) and f_e the share of
/// the assignments that expert e has:
///
///   L = E Σ_e f_e P_e ,  P_e = (1/n) Σ_i p_ie ;   d_logits_ie += scale · coefficient · (E/n) p_ie (f_e - Σ_j f_j p_ij)
///
/// loss += coefficient · L, and L is returned on contexts of the host, on a device nothing is.
///
/// f counts and has no gradient. With `offsets` each sequence has an f, P and L of its own and the loss is the mean over those that
/// are not empty; with `counts` f is the share in those.
///
/// Shapes: logits, d_logits (tokens, E); experts (tokens, slots); offsets (S + 1); counts (E). Read in `T`, computed in
/// accumulator_t<T>, the same bits on the contexts of the host and any number of threads; d_logits is rounded once for each term
/// added. Scratch for tokens · E numbers. Nothing may alias. Waits for its result on the host, not on a device. Throws
/// `shape_error` on extents that disagree, and `value_error` on offsets that do not ascend from 0 to tokens, an expert outside -1
/// to E - 1, a NaN, and a largest logit that is infinite; nothing is written then. Sources: Fedus et al. 2021, arXiv:2101.03961,
/// section 2.2; per sequence DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2; over a whole step Qiu et al. 2025,
/// arXiv:2501.11873.
inline constexpr detail::balance_loss_fn balance_loss{};

/// The router z-loss, which keeps logits small enough for storage of few bits:
///
///   L = (1/n) Σ_i z_i² ,  z_i = log Σ_e exp(x_ie) ;   d_logits_ie += scale · coefficient · (2/n) z_i softmax(x_i)_e
///
/// loss += coefficient · L, and L is returned on contexts of the host, on a device nothing is.
///
/// Shapes: logits, d_logits (tokens, E), any strides. Read in `T`, computed in accumulator_t<T>, the same bits on the contexts of
/// the host and any number of threads. Nothing may alias. No tokens: 0. Waits for its result on the host, not on a device. Throws
/// `shape_error` on extents that disagree, and `value_error` on a NaN and a largest logit that is infinite; nothing is written
/// then. Source: Zoph et al. 2022, arXiv:2202.08906, section 3.
inline constexpr detail::router_z_loss_fn router_z_loss{};

/// The L1 norm of ReLU weights, dearer where an expert is busier:
///
///   L = (1/n) Σ_ie f_e max(x_ie, 0) ,  f_e = E/(k n) · #{ i : x_ie > 0 } ;   d_logits_ie += scale · λ · f_e/n [x_ie > 0]
///
/// with λ = coefficient · exp(log_coefficient). loss += λ · L, and L is returned on contexts of the host, on a device nothing is.
///
/// f counts and has no gradient; it is 1 where k experts a token are busy evenly. Shapes: logits, d_logits (tokens, E), any
/// strides. Read in `T`, computed in accumulator_t<T>, the same bits on the contexts of the host. Nothing may alias. No
/// tokens: 0. Waits for its result on the host, not on a device. Throws `shape_error` on extents that disagree, and `value_error`
/// on k < 1 and a NaN; nothing is written then. Source: Wang et al. 2024, arXiv:2412.14711, sections 3.2 and 3.3.
inline constexpr detail::sparsity_loss_fn sparsity_loss{};

}  // namespace blackmamba
