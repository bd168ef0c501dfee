// A block says in one sentence what its norm has not.

#include <blackmamba/layers/mlp.hpp>
#include <blackmamba/layers/residual.hpp>

using namespace blackmamba;

struct Unchanged {
#if MISTAKE == 1  // refused: this norm has no member template Params<T>: a struct of the Views it learns
#else
  template <class T>
  struct Params {};
#endif

#if MISTAKE == 2  // refused: this norm has no static parameters(p, width, visit) that lists the members of its Params
#else
  static constexpr void parameters(auto&, Index, auto&) {}
#endif

#if MISTAKE == 3  // refused: this norm has no static apply(pass, dims, params, x, residual, y) for rows of d_model
#else
  template <class Ctx, Scalar T>
  static void apply(Pass<Ctx, T> const&, Dims const&, auto const& params, Input<T, 2> x, Output<accumulator_t<T>, 2> residual,
                    Output<T, 2> y);
#endif
};

inline constexpr Residual<Unchanged, Mlp<GeGlu>> block{};
