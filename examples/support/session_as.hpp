#pragma once
// The one implementation of `Session`, for any network, scalar and device.

#include <vector>

#include <blackmamba/generate/generate.hpp>
#include <blackmamba/generate/score.hpp>
#include <blackmamba/io/load.hpp>
#include <blackmamba/io/presets.hpp>
#include <blackmamba/io/save.hpp>
#include <blackmamba/model/gradients.hpp>

#include "support/session.hpp"

namespace program {

template <class Net, class T, class Ctx>
class SessionOf : public Session {
 public:
  SessionOf(typename Net::Dims const& dims, io::ModelConfig::Family family) : model_{dims}, family_{family} {}

  Model<Net, T, Ctx>& model() { return model_; }

  Index vocab() const override { return model_.dims().vocab; }
  Index parameters() const override { return count_parameters<Net>(model_.dims()).total; }
  int threads() const override { return model_.ctx().threads(); }

  Score score(View<Token const, 2> tokens, View<Token const, 2> targets, ScoreOptions const& options,
              OnLogits const& on_logits) override {
    if (!on_logits) return blackmamba::score(model_, tokens, targets, options);
    std::vector<double> row(static_cast<std::size_t>(vocab()));
    return blackmamba::score(model_, tokens, targets, options, [&](Index begin, View<T const, 3> logits) {
      for (Index b = 0; b < logits.extent(0); ++b)
        for (Index l = 0; l < logits.extent(1); ++l) {
          for (std::size_t v = 0; v < row.size(); ++v) row[v] = static_cast<double>(widen(logits(b, l, v)));
          on_logits(b, begin + l, row);
        }
    });
  }

  void write_gradients(View<Token const, 2> tokens, View<Token const, 2> targets, std::string const& file) override {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
      Ctx const& ctx = model_.ctx();
      TensorOn<Ctx, Token, 2> const inputs{ctx, tokens.shape()}, labels{ctx, targets.shape()};
      upload(ctx, tokens, inputs.view());
      upload(ctx, targets, labels.view());
      Gradients<Net, T, Ctx> gradients{model_, Keep::inputs};
      gradients.add(inputs, labels, {.mode = Mode::inference});
      io::save_gradients(gradients, family_, file);
    } else {  // would double what the programs take to compile, for gradients of half the digits
      throw value_error(concat("gradients in ", file, " need a scalar of 32 bits or more: give --dtype f32 or f64"));
    }
  }

  Index generate(std::span<Token const> prompt, GenerateOptions const& options,
                 std::function<bool(View<Token const, 1>)> const& on_tokens) override {
    return blackmamba::generate(model_, prompt, options, on_tokens);
  }

 private:
  Model<Net, T, Ctx> model_;
  io::ModelConfig::Family family_;
};

template <class T, class Ctx>
std::unique_ptr<Session> open_session_as(ModelChoice const& choice) {
  bool const from_file = !choice.folder.empty();
  auto const config = from_file ? io::read_config(choice.folder) : io::preset(choice.preset);
  return io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) -> std::unique_ptr<Session> {
    if (!from_file) {
      auto session = std::make_unique<SessionOf<Net, T, Ctx>>(dims, config.family);
      session->model().initialise(choice.seed);
      return session;
    }
    auto const file = io::TensorFile::open(choice.folder);
    io::Naming const naming{config.family};
    io::check_weights<Net>(dims, file, naming);  // a configuration may ask for more memory than there is
    auto session = std::make_unique<SessionOf<Net, T, Ctx>>(dims, config.family);
    io::load_weights(session->model(), file, naming);
    return session;
  });
}

}  // namespace program
