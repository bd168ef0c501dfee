// How well a model predicts tokens or text: loss, perplexity, speed, and the logits themselves if they are wanted.

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include <blackmamba/io/safetensors_writer.hpp>
#include <blackmamba/io/tensor_file.hpp>

#include "support/program.hpp"

namespace {

using namespace blackmamba;

/// Tokens and what should follow each of them.
struct Text {
  Tensor<Token, 2> tokens, targets;
};

/// `input_ids` and, if there, `target_ids`. Without targets every token is the target of the one before it.
Text read_ids(std::string const& path) {
  auto const file = io::TensorFile::open(path);
  auto tokens = file.read<Token, 2>("input_ids");
  if (file.contains("target_ids")) return {std::move(tokens), file.read<Token, 2>("target_ids")};
  Tensor<Token, 2> targets{tokens.shape()};
  for (Index b = 0; b < tokens.extent(0); ++b)
    for (Index l = 0; l < tokens.extent(1); ++l) targets(b, l) = l + 1 < tokens.extent(1) ? tokens(b, l + 1) : -100;
  return {std::move(tokens), std::move(targets)};
}

/// A file as one sequence of bytes, each predicted from those before it.
Text read_text(std::string const& path, Index vocab) {
  check_value(vocab == 256, "--text", "the model has a vocabulary of ", vocab,
              ", and text is read as bytes only for one of 256: give --ids");
  io::MappedFile const file{path};
  auto const bytes = file.bytes();
  auto const length = static_cast<Index>(bytes.size()) - 1;
  if (length < 1) throw file_error(concat(path, ": has 1 byte, and scoring needs at least 2"));
  Text text{Tensor<Token, 2>{Shape<2>{1, length}}, Tensor<Token, 2>{Shape<2>{1, length}}};
  for (Index i = 0; i < length; ++i) {
    text.tokens(0, i) = static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
    text.targets(0, i) = static_cast<unsigned char>(bytes[static_cast<std::size_t>(i + 1)]);
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Scores tokens or text under a model: mean cross-entropy, perplexity, tokens per second.", "score"};
  program::ModelChoice choice;
  std::string ids, text, logits_path, gradients_path;
  Index chunk = 1024;
  bool as_json = false;
  program::add_model_options(app, choice);
  auto* const ids_option = app.add_option("--ids", ids, "safetensors file with input_ids (B, L) and, if wanted, target_ids (B, L)");
  app.add_option("--text", text, "Text file, read as bytes (vocabulary of 256)")->excludes(ids_option);
  app.add_option("--logits", logits_path,
                 "Write the logits (B, L, vocab) to this safetensors file: float32, float64 with --dtype f64");
  app.add_option("--gradients", gradients_path,
                 "Write d loss / d parameter to this safetensors file, under the names of the checkpoint: with --dtype f32 or "
                 "f64");
  app.add_option("--chunk", chunk,
                 "Tokens of a sequence a pass; the state carries over, so only memory depends on it. 0: all at once")
      ->check(CLI::Range(Index{0}, Index{1} << 31))
      ->capture_default_str();
  app.add_flag("--json", as_json, "Print one JSON object");

  return program::run(app, argc, argv, [&] {
    check_value(!ids.empty() || !text.empty(), "score", "there is nothing to score: give --ids or --text");
    auto const session = program::open_session(choice);
    Text const input = ids.empty() ? read_text(text, session->vocab()) : read_ids(ids);

    bool const wanted = !logits_path.empty();
    Shape<3> const shape{input.tokens.extent(0), input.tokens.extent(1), wanted ? session->vocab() : 0};
    bool const wide = choice.dtype == "f64";
    Tensor<double, 3> logits64{wide ? shape : Shape<3>{}};
    Tensor<float, 3> logits32{wide ? Shape<3>{} : shape};
    program::OnLogits const keep = [&](Index b, Index l, std::span<double const> row) {
      for (std::size_t v = 0; v < row.size(); ++v)
        wide ? void(logits64(b, l, v) = row[v]) : void(logits32(b, l, v) = static_cast<float>(row[v]));
    };

    auto const start = std::chrono::steady_clock::now();
    Score const score = session->score(input.tokens, input.targets, {.chunk = chunk}, wanted ? keep : program::OnLogits{});
    std::chrono::duration<double> const elapsed = std::chrono::steady_clock::now() - start;
    double const rate = static_cast<double>(input.tokens.size()) / elapsed.count();
    double const loss = score.count ? score.mean() : NAN;  // JSON says null
    if (as_json) {
      nlohmann::json const out{{"loss", loss},
                               {"perplexity", std::exp(loss)},
                               {"bits_per_token", loss / std::log(2.0)},
                               {"tokens", input.tokens.size()},
                               {"targets", score.count},
                               {"tokens_per_second", rate},
                               {"device", choice.device},
                               {"dtype", choice.dtype},
                               {"parameters", session->parameters()}};
      fmt::print("{}\n", out.dump());
    } else {
      fmt::print("loss        {:.6f} nats a token ({:.4f} bits)\nperplexity  {:.4f}\n", loss, loss / std::log(2.0), std::exp(loss));
      fmt::print("tokens      {} ({} scored), {:.0f} tokens/s on {} in {}\n", input.tokens.size(), score.count, rate, choice.device,
                 choice.dtype);
    }
    std::fflush(stdout);

    // After the score has been told, so that a disk that is full does not cost it.
    auto const write = [&](auto const& logits) {
      io::TensorToWrite const tensor[]{io::to_write("logits", logits.view())};
      io::write_safetensors(logits_path, tensor);
    };
    if (wanted) wide ? write(logits64) : write(logits32);
    if (!gradients_path.empty()) session->write_gradients(input.tokens, input.targets, gradients_path);
  });
}
