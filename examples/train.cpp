// Trains a small BlackMamba on text: any router, live progress, checkpoints that survive a kill at any moment.

#include <fmt/format.h>

#include <cmath>
#include <csignal>

#include <blackmamba/io/checkpoint.hpp>
#include <blackmamba/io/state_file.hpp>
#include <blackmamba/layers/routers/list.hpp>

#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/training.hpp"

namespace {

using namespace blackmamba;

/// Set by the first Ctrl-C: the step in hand is finished and kept.
volatile std::sig_atomic_t interrupted = 0;

/// What a resumed run must have in common with the one that it goes on from.
std::map<std::string, std::string> course(program::TrainingSettings const& settings, std::string const& router,
                                          program::Text const& text) {
  std::map<std::string, std::string> out;
  for (auto const& [name, value] : program::described(settings)) out[name] = value;
  // A run at a constant rate may go on beyond what was planned.
  if (settings.schedule == "constant") out.erase("steps");
  out["router"] = router;
  out["seed"] = fmt::format("{}", settings.seed);
  out["text"] = fmt::format("{:016x}", text.corpus().fingerprint());
  return out;
}

/// The state of a checkpoint, if it belongs to this run. Throws `file_error` naming what differs.
io::StateFile read_state_of(io::Checkpoint const& checkpoint, std::map<std::string, std::string> const& course) {
  auto state = io::read_state(checkpoint.folder / "state.json");
  for (auto const& [name, value] : course)
    if (auto const& before = state.text(name); before != value)
      throw file_error(concat(state.file, ": the run had ", name, " ", before, ", and is to go on with ", value));
  return state;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains a BlackMamba on text and writes checkpoints that score and generate load.", "train"};
  program::TrainingSettings settings;
  std::vector<std::string> data;
  std::string router = "top1", out;
  Index checkpoint_every = 0, keep = 2;
  bool resume = false;
  std::string known;
  for (auto const name : Routers::names()) known += concat(known.empty() ? "" : ", ", name);
  app.add_option(
         "--data", data,
         "Files or folders of text (bytes, one document a file), .bin files of 16-bit tokens, or .safetensors with `tokens`")
      ->required();
  app.add_option(
         "--router", router,
         "One of " + known +
             "; options behind it, as in bias:rate=0.01:top_k=2: top_k, normalise, capacity, z, balance, scope, rate, average, "
             "groups, groups_kept, iterations")
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "Of the first weights, of the order of the text, of what routers draw")
      ->capture_default_str();
  app.add_option("--out", out, "Folder of checkpoints and metrics.jsonl")->required();
  app.add_option("--checkpoint-every", checkpoint_every, "Steps between checkpoints; 0: only at the end")->capture_default_str();
  app.add_option("--keep-checkpoints", keep, "How many of the last checkpoints stay")->capture_default_str();
  app.add_flag("--resume", resume, "Go on from the last checkpoint in --out, or begin if there is none");
  app.add_option("--dtype", settings.dtype, "Scalar of weights and activations: f32, f64, and bf16 or f16 with float32 masters")
      ->capture_default_str();
  program::add_training_options(app, settings);

  return program::run(app, argc, argv, [&] {
    check_value(checkpoint_every >= 0, "--checkpoint-every", "is ", checkpoint_every, ", not at least 0");
    auto const config = program::configuration(settings, router);
    program::Text const text{data, settings};
    io::CheckpointWriter checkpoints{out, keep};
    auto const last = io::newest_checkpoint(out);
    if (last && !resume)
      throw file_error(concat(out, ": holds a run of ", last->step, " steps; give --resume to go on with it, or another --out"));

    auto const training = program::begin_training(settings, config, text);
    program::RunLoop loop{*training, settings, text.corpus().is_bytes()};
    auto const course_of_run = course(settings, router, text);
    if (last) {
      auto const state = read_state_of(*last, course_of_run);
      training->load(last->folder, state.integer("steps"));
      loop.seconds = state.number("seconds");
    }
    auto const parameters = training->parameters();
    auto const plan = training->plan();
    auto const mega = [](Index bytes) { return static_cast<double>(bytes) / 1e6; };
    fmt::print("text    {}\n", text.description());
    fmt::print("model   {} parameters, {} of them used by a token; router {}\n", parameters.total, parameters.active, router);
    fmt::print("memory  {:.1f} MB: weights {:.1f}, gradients {:.1f}, optimiser {:.1f}, activations {:.1f}, temporary {:.1f}\n",
               mega(plan.total()), mega(plan.weights), mega(plan.gradients), mega(plan.optimiser), mega(plan.activations),
               mega(plan.temporary));
    fmt::print("steps   {} of {} tokens, on {} threads{}\n", settings.steps, settings.batch * settings.length * settings.passes,
               training->threads(), last ? fmt::format("; going on after step {}", training->steps()) : std::string{});
    std::fflush(stdout);

    program::MetricsWriter metrics{(std::filesystem::path{out} / "metrics.jsonl").string(), last.has_value()};
    program::Run run;
    run.router = router, run.seed = settings.seed;
    run.parameters = parameters.total, run.active_parameters = parameters.active;
    if (!last) {
      program::Comparison about;
      about.settings = program::described(settings), about.command = program::command_line(argc, argv);
      about.data = text.description(), about.unigram_entropy_bits = text.corpus().unigram_entropy();
      metrics.begin(about);
    }
    metrics.begin(run);

    Index saved = last ? last->step : -1;
    auto const save = [&] {
      if (saved == training->steps()) return;
      // A step may leave weights that only the next one would find broken: those are not to take a good checkpoint's place.
      if (double const loss = training->next_loss(); !std::isfinite(loss))
        throw value_error(concat("step ", training->steps(), " left weights whose loss is ", loss,
                                 "; no checkpoint is made of them. ", "A lower --learning-rate may help"));
      checkpoints.save(training->steps(), [&](std::filesystem::path const& folder) {
        training->save(folder);
        io::StateFile state;
        state.integers["steps"] = training->steps();
        state.numbers["seconds"] = loop.seconds;
        state.texts = course_of_run;
        state.texts["steps"] = fmt::format("{}", settings.steps);
        io::write_state(folder / "state.json", state);
      });
      saved = training->steps();
    };

    std::signal(SIGINT, [](int) { interrupted = 1; });
    std::signal(SIGXFSZ, SIG_IGN);  // a limit on the size of files is then an error like a full disk, with its sentence
    program::Progress progress{"step", settings.steps, training->steps()};
    std::string held_out;
    program::RunEvents const events{
        [&](program::StepRecord const& record) {
          metrics.step(run, record);
          progress.show(record.step, fmt::format("loss {:.3f}{} {:.0f} tokens/s", record.loss, held_out, record.tokens_per_second));
        },
        [&](program::EvalRecord const& record) {
          metrics.eval(run, record);
          held_out = std::isnan(record.bits_per_byte) ? fmt::format(", held out {:.3f}", record.loss)
                                                      : fmt::format(", held out {:.3f} bits a byte", record.bits_per_byte);
        }};
    auto const end = [&](std::string const& why) {
      progress.pause();
      run.seconds = loop.seconds;
      run.stopped = why;
      metrics.end(run);
    };
    bool finished = false;
    try {
      finished = loop.run(settings.steps, events, [&](Index step) {
        if (checkpoint_every > 0 && step > 0 && step % checkpoint_every == 0) save();
        return !interrupted;
      });
      save();
    } catch (value_error const& e) {
      end(e.what());
      throw;
    }
    end(finished ? "finished" : "interrupted");
    if (finished)
      fmt::print("done    {}{}; checkpoint {}/latest\n", settings.steps, held_out, out);
    else
      fmt::print("stopped after step {}; go on with --resume\n", training->steps());
  });
}
