#pragma once
// A model behind one run-time interface: the programs choose network, scalar and device on the command line, the library does at
// compile time. Every (scalar, device) is a translation unit of its own, which the programs share.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <blackmamba/core/view.hpp>
#include <blackmamba/generate/options.hpp>

namespace program {

using namespace blackmamba;

/// What the command line says of the model.
struct ModelChoice {
  std::string folder;  ///< a checkpoint, or
  std::string preset;  ///< a size to initialise at random
  std::uint64_t seed = 0;
  std::string device = "cpu";
  std::string dtype = "f32";
};

/// Receives the logits of one position of one sequence.
using OnLogits = std::function<void(Index sequence, Index position, std::span<double const> logits)>;

/// A model that is ready.
class Session {
 public:
  virtual ~Session() = default;
  virtual Index vocab() const = 0;
  virtual Index parameters() const = 0;
  virtual int threads() const = 0;

  /// Scores targets after tokens, both (B, L).
  virtual Score score(View<Token const, 2> tokens, View<Token const, 2> targets, ScoreOptions const& options,
                      OnLogits const& on_logits) = 0;

  /// Writes d (mean cross-entropy over the valid targets) / d parameter to a safetensors file, routed as at inference.
  virtual void write_gradients(View<Token const, 2> tokens, View<Token const, 2> targets, std::string const& file) = 0;

  /// Continues the prompt; one call of `on_tokens` a new row of tokens, until it returns false.
  virtual Index generate(std::span<Token const> prompt, GenerateOptions const& options,
                         std::function<bool(View<Token const, 1>)> const& on_tokens) = 0;
};

/// Loads or initialises the model that was chosen. Throws `value_error` on a device or scalar that there is not.
std::unique_ptr<Session> open_session(ModelChoice const& choice);

/// The same with scalar and device fixed: instantiated in session_*.cpp.
template <class T, class Ctx>
std::unique_ptr<Session> open_session_as(ModelChoice const& choice);

}  // namespace program
