// A block says in one sentence what its mixer has not.

#include <blackmamba/layers/norm.hpp>
#include <blackmamba/layers/residual.hpp>

using namespace blackmamba;

struct Scale {
#if MISTAKE == 1  // refused: this mixer has no member template Params<T>: a struct of the Views it learns
#else
  template <class T>
  struct Params {
    View<T, 1> s{};
  };
#endif

#if MISTAKE == 2  // refused: this mixer has no member template State<T>: a struct of the Views one decoding step carries
#else
  template <class T>
  struct State {};
#endif

#if MISTAKE == 3  // refused: this mixer has no static parameters(p, dims, visit) that lists the members of its Params
#else
  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    visit("scale", p.s, Shape<1>{d.d_model}, Init::ones, Decay::no);
  }
#endif

#if MISTAKE == 4  // refused: this mixer has no static state(s, dims, batch, visit) that lists the members of its State
#else
  static constexpr void state(auto&, Dims const&, Index, auto&) {}
#endif

#if MISTAKE == 5    // refused: this mixer has no static forward(pass, dims, params, x, y, state) for x, y of (B, L, d_model)
#elif MISTAKE == 6  // refused: this mixer has no static forward(pass, dims, params, x, y, state) for x, y of (B, L, d_model)
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const&, Dims const&, auto const& params, Input<T, 2> x, Output<T, 2> y, auto const* state);
#else
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const&, Dims const&, auto const& params, Input<T, 3> x, Output<T, 3> y, auto const* state);
#endif

#if MISTAKE == 7  // refused: this mixer has no static step(pass, dims, params, x, y, state) for x, y of (B, d_model)
#else
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const&, Dims const&, auto const& params, Input<T, 2> x, Output<T, 2> y, auto const& state);
#endif

#if MISTAKE == 8  // refused: this mixer has no static flops_per_token(dims)
#else
  static constexpr Index flops_per_token(Dims const& d) { return d.d_model; }
#endif

#if MISTAKE == 9  // refused: this mixer has no static constexpr char const* name
#else
  static constexpr char const* name = "Scale";
#endif
};

inline constexpr Residual<RmsNorm, Scale> block{};
