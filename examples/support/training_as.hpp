#pragma once
// The one implementation of `Training`, for any scalar and device.

#include <blackmamba/io/load.hpp>
#include <blackmamba/io/save.hpp>
#include <blackmamba/train/trainer.hpp>

#include "support/training.hpp"

namespace program {

template <class T, class Ctx>
class TrainingOf : public Training {
 public:
  using Net = PublishedMixture<>;

  TrainingOf(TrainingSettings const& settings, io::ModelConfig const& config, Text const& text, TrainerOptions const& options)
      : config_{config},
        text_{text},
        model_{io::mixed_dims(config), context(settings)},
        trainer_{initialised(model_, settings.seed), options},
        batch_{text.training().make_batch()},
        held_out_batch_{text.held_out().make_batch()} {}

  ParameterCount parameters() const override { return count_parameters<Net>(model_.dims()); }
  int threads() const override { return model_.ctx().threads(); }
  MemoryPlan plan() override { return trainer_.plan(batch_); }

  Index steps() const override { return trainer_.steps(); }
  StepReport step() override {
    // Where in the text a step begins follows from its number, so that is all a resumed run has to know.
    Index const passes = trainer_.options().passes, sequences = text_.training().options().sequences, first = steps() * passes;
    return trainer_.step([&](Index pass) -> TokenBatch const& {
      text_.training().fill((first + pass) * sequences, batch_);
      return batch_;
    });
  }
  std::vector<RoutingStats> const& routing() const override { return trainer_.routing(); }
  Evaluation evaluate(Evaluation const* before) override {
    return trainer_.evaluate(text_.held_out(), held_out_batch_, text_.corpus().is_bytes(), before);
  }

  double next_loss() override {
    text_.training().fill(steps() * trainer_.options().passes * text_.training().options().sequences, batch_);
    return trainer_.loss(batch_);
  }

  void save(std::filesystem::path const& folder) override {
    io::save_model(model_, config_, folder);
    std::vector<io::TensorToWrite> arrays;
    using A = accumulator_t<T>;
    std::vector<decltype(on_host(model_.ctx(), View<A, 1>{}))> copies;  // of what is on a device
    trainer_.optimiser().for_each_array([&](char const* name, View<A, 1> view) {
      copies.push_back(on_host(model_.ctx(), view));
      arrays.push_back(io::to_write(name, View<A const, 1>{copies.back()}));
    });
    io::write_safetensors(folder / "optimiser.safetensors", arrays);
  }

  void load(std::filesystem::path const& folder, Index steps) override {
    io::load_weights(model_, io::TensorFile::open(folder / "model.safetensors"), io::Naming{config_.family});
    auto const file = io::TensorFile::open(folder / "optimiser.safetensors");
    trainer_.optimiser().for_each_array([&](char const* name, auto view) {
      if constexpr (std::derived_from<Ctx, Reference>) {
        file.read_into(name, view);
      } else {
        Tensor<accumulator_t<T>, 1> array{view.shape()};
        file.read_into(name, array.view());
        upload(model_.ctx(), array.view(), view);
      }
    });
    trainer_.optimiser().set_steps(steps);
  }

 private:
  static Ctx context(TrainingSettings const& settings) {
    if constexpr (std::is_same_v<Ctx, Cpu>)
      return settings.threads > 0 ? Cpu{settings.threads} : Cpu{};
    else
      return Ctx{};
  }

  static Model<Net, T, Ctx>& initialised(Model<Net, T, Ctx>& model, std::uint64_t seed) {
    model.initialise(seed);
    return model;
  }

  io::ModelConfig config_;
  Text const& text_;
  Model<Net, T, Ctx> model_;
  Trainer<Net, T, Ctx> trainer_;
  TokenBatch batch_, held_out_batch_;
};

template <class T, class Ctx>
std::unique_ptr<Training> begin_training_as(TrainingSettings const& settings, io::ModelConfig const& config, Text const& text) {
  text.corpus().check_vocabulary(config.dims.vocab);
  return std::make_unique<TrainingOf<T, Ctx>>(settings, config, text, trainer_options(settings));
}

}  // namespace program
