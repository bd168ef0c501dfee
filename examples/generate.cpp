// Continues a prompt, token by token as they come.

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "support/program.hpp"

namespace {

using namespace blackmamba;

/// Ids separated by spaces or commas.
std::vector<Token> parse_ids(std::string const& text, Index vocab) {
  std::vector<Token> out;
  std::string separated = text;
  for (char& c : separated)
    if (c == ',') c = ' ';
  std::istringstream words{separated};
  for (std::string word; words >> word;) {
    Token id{};
    auto const [end, failure] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (failure != std::errc{} || end != word.data() + word.size())
      throw value_error(concat("--prompt-ids: '", word, "' is not a token id"));
    check_value(id >= 0 && id < vocab, "--prompt-ids", "id ", id, " is outside the vocabulary of ", vocab);
    out.push_back(id);
  }
  return out;
}

std::vector<Token> parse_text(std::string const& text, Index vocab) {
  check_value(vocab == 256, "--prompt", "the model has a vocabulary of ", vocab,
              ", and text is read as bytes only for one of 256: give --prompt-ids");
  std::vector<Token> out;
  for (char const c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

std::string joined(std::vector<Token> const& ids) { return fmt::format("{}", fmt::join(ids, " ")); }

/// Bytes as text that a terminal can show and JSON can hold: what is not printable ASCII is escaped.
std::string printable(std::vector<Token> const& ids) {
  std::string out;
  for (Token const id : ids) {
    if (id == '\n' || (id >= 32 && id < 127))
      out += static_cast<char>(id);
    else
      out += fmt::format("\\x{:02x}", id);
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Continues a prompt. Bytes are the tokens of a vocabulary of 256; other vocabularies take and give ids.",
               "generate"};
  program::ModelChoice choice;
  GenerateOptions options{.max_new_tokens = 64};
  std::string prompt, prompt_ids;
  bool ids_only = false, as_json = false;
  program::add_model_options(app, choice);
  auto* const ids_option = app.add_option("--prompt-ids", prompt_ids, "Token ids to continue, separated by spaces or commas");
  app.add_option("--prompt", prompt, "Text to continue (vocabulary of 256)")->excludes(ids_option);
  app.add_option("--max-new-tokens", options.max_new_tokens, "Tokens to generate")
      ->check(CLI::Range(Index{0}, Index{1} << 31))
      ->capture_default_str();
  app.add_option("--temperature", options.sample.temperature, "Divides the logits; 0 is greedy")->capture_default_str();
  app.add_option("--top-k", options.sample.top_k, "Keep the k most probable tokens; 0: all")->capture_default_str();
  app.add_option("--top-p", options.sample.top_p, "Keep the most probable tokens that reach this probability together")
      ->capture_default_str();
  app.add_option("--min-p", options.sample.min_p, "Keep tokens at least this probable relative to the most probable")
      ->capture_default_str();
  app.add_option("--repetition-penalty", options.sample.repetition_penalty, "Makes tokens that occurred less probable; 1: off")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Seed of the draws: the same seed gives the same text")->capture_default_str();
  app.add_option("--batch", options.batch, "Independent continuations of the prompt")
      ->check(CLI::Range(Index{1}, Index{1} << 20))
      ->capture_default_str();
  app.add_flag("--ids-only", ids_only, "Print the new ids alone, one line a continuation");
  app.add_flag("--json", as_json, "Print one JSON object");

  return program::run(app, argc, argv, [&] {
    check_value(!prompt.empty() || !prompt_ids.empty(), "generate", "the prompt is empty: give --prompt or --prompt-ids");
    auto const session = program::open_session(choice);
    bool const bytes = session->vocab() == 256;
    auto const tokens = prompt_ids.empty() ? parse_text(prompt, session->vocab()) : parse_ids(prompt_ids, session->vocab());

    // One continuation streams as it comes; several would interleave, so they are printed when they are complete.
    bool const stream = options.batch == 1 && !ids_only && !as_json;
    std::vector<std::vector<Token>> rows(static_cast<std::size_t>(options.batch));
    std::string const told = prompt_ids.empty() ? prompt : bytes ? printable(tokens) : "";  // text as it was typed
    if (stream) fmt::print("{}", told);
    auto const start = std::chrono::steady_clock::now();
    session->generate(tokens, options, [&](View<Token const, 1> next) {
      for (Index b = 0; b < next.size(); ++b) rows[static_cast<std::size_t>(b)].push_back(next(b));
      if (stream) {
        fmt::print("{}", bytes ? printable({next(0)}) : fmt::format("{} ", next(0)));
        std::fflush(stdout);
      }
      return true;
    });
    std::chrono::duration<double> const elapsed = std::chrono::steady_clock::now() - start;
    double const rate = static_cast<double>(options.max_new_tokens * options.batch) / elapsed.count();

    if (ids_only) {
      for (auto const& row : rows) fmt::print("{}\n", joined(row));
    } else if (as_json) {
      nlohmann::json out{{"ids", rows}, {"prompt_ids", tokens}, {"tokens_per_second", rate}};
      if (bytes)
        for (auto const& row : rows) out["text"].push_back(printable(row));
      fmt::print("{}\n", out.dump());
    } else {
      if (stream)
        fmt::print("\n");
      else
        for (auto const& row : rows) fmt::print("{}\n", told + (bytes ? printable(row) : joined(row)));
      fmt::print(stderr, "{} new tokens, prompt included {:.1f} tokens/s on {} in {}\n", options.max_new_tokens * options.batch,
                 rate, choice.device, choice.dtype);
    }
  });
}
