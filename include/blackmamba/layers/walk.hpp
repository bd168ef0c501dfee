#pragma once
/// \file
/// One walk, many readers. A layer lists its parameters once, in `parameters(p, dims, visit)`; counting them, binding them to a
/// flat arena, naming, initialising and decaying them are readers of that list, and so is loading a checkpoint.
///
///   visit("in_proj.weight", p.in_proj, Shape{2 * d.inner(), d.d_model}, Init::linear, Decay::yes);
///
/// A reader is a class with
///   operator()(name, view, shape, init, decay)              one tensor
///   experts(prefix, name, view, shape, active, init, decay) tensors of E experts stacked in one, of which `active` see a token
///   enter(scope) / enter(scope, index) / leave()            the path of the names: "decoder.layers.3.mixer."

#include <string>
#include <vector>

#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Names a type, to hand it to a generic lambda.
template <class B>
struct Type {
  using type = B;
};

/// How a parameter is initialised, as the published model does it.
enum class Init {
  zeros,
  ones,
  embedding,    ///< normal, standard deviation 0.02
  linear,       ///< uniform within 1 / √fan_in, the fan-in being the last extent
  residual,     ///< as `linear`, divided by √layers: maps that write into the residual stream
  step_weight,  ///< uniform within 1 / √rank
  step_bias,    ///< softplus⁻¹ of a step size log-uniform in [0.001, 0.1]
  s4d_log,      ///< log(n + 1) for state n
};

/// Whether weight decay applies.
enum class Decay { yes, no };

/// What a reader that follows names derives from: keeps the dotted path.
class NamedWalk {
 public:
  void enter(char const* scope) { push(scope); }
  void enter(char const* scope, Index index) { push(concat(scope, '.', index)); }
  void leave() {
    path_.resize(lengths_.back());
    lengths_.pop_back();
  }

 protected:
  std::string name(char const* last) const { return path_ + last; }
  std::string expert_name(char const* prefix, Index expert, char const* last) const {
    return concat(path_, prefix, '.', expert, '.', last);
  }

 private:
  void push(std::string const& scope) {
    lengths_.push_back(path_.size());
    path_ += scope;
    path_ += '.';
  }

  std::string path_;
  std::vector<std::size_t> lengths_;
};

/// A reader that does not care for names.
struct NamelessWalk {
  constexpr void enter(char const*) {}
  constexpr void enter(char const*, Index) {}
  constexpr void leave() {}
};

}  // namespace blackmamba
