#include "frontend/imagebuild/definition.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <utility>

namespace postern::imagebuild {
namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) {
    return {};
  }
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

Problem at_line(std::size_t line, std::string what) {
  return Problem{.what = "definition file, line " + std::to_string(line) + ": " + std::move(what)};
}

struct Line {
  std::size_t number;
  std::string_view text;
};

std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    lines.push_back({number, text.substr(0, end)});
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

bool is_section(std::string_view line) {
  return line.size() > 1 && line[0] == '%' &&
         std::isalpha(static_cast<unsigned char>(line[1])) != 0;
}

bool is_bootstrap(std::string_view line) {
  return lower(trimmed(line)).starts_with("bootstrap:");
}

// A section as it stands in the file.
struct Section {
  std::size_t line;
  std::string name;                // lower case, without %
  std::vector<std::string> words;  // behind the name
  std::vector<Line> body;

  [[nodiscard]] std::string text() const {
    std::string out;
    for (const Line& line_of_body : body) {
      out += line_of_body.text;
      out += '\n';
    }
    return out;
  }
};

std::map<std::string, std::string> default_arguments(const std::vector<Line>& lines) {
  std::map<std::string, std::string> defaults;
  bool inside = false;
  for (const Line& line : lines) {
    if (is_section(line.text)) {
      inside = lower(trimmed(line.text)) == "%arguments";
      continue;
    }
    if (is_bootstrap(line.text)) {
      inside = false;
    }
    const std::string_view text = trimmed(line.text);
    const std::size_t equals = text.find('=');
    if (inside && !text.starts_with('#') && equals != std::string_view::npos) {
      std::string_view value = trimmed(text.substr(equals + 1));
      if (value.size() >= 2 && (value.front() == '"' || value.front() == '\'') &&
          value.back() == value.front()) {
        value = value.substr(1, value.size() - 2);
      }
      defaults[std::string(trimmed(text.substr(0, equals)))] = value;
    }
  }
  return defaults;
}

bool is_argument_name(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
}

// Replaces every {{ NAME }}. What does not look like one stays: shell code may hold "{{".
Outcome<std::string> fill_templates(std::string_view text,
                                    const BuildArguments& arguments,
                                    std::set<std::string>& used) {
  const std::map<std::string, std::string> defaults = default_arguments(lines_of(text));
  std::string out;
  std::size_t line = 1;
  while (true) {
    const std::size_t open = text.find("{{");
    const std::size_t close = open == std::string_view::npos ? open : text.find("}}", open + 2);
    if (close == std::string_view::npos) {
      out += text;
      return out;
    }
    const std::string name(trimmed(text.substr(open + 2, close - open - 2)));
    out += text.substr(0, open);
    line += static_cast<std::size_t>(
        std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(open), '\n'));
    if (!is_argument_name(name)) {
      out += "{{";
      text.remove_prefix(open + 2);
      continue;
    }
    if (const auto given = arguments.find(name); given != arguments.end()) {
      out += given->second;
      used.insert(name);
    } else if (const auto standard = defaults.find(name); standard != defaults.end()) {
      out += standard->second;
    } else {
      Problem problem = at_line(line, "{{ " + name + " }} has no value");
      problem.cure = "give --build-arg " + name + "=VALUE, or a default in %arguments";
      return problem;
    }
    text.remove_prefix(close + 2);
  }
}

Outcome<std::map<std::string, std::string>> parse_labels(const Section& section) {
  std::map<std::string, std::string> labels;
  for (const Line& line : section.body) {
    const std::string_view text = trimmed(line.text);
    if (text.empty() || text.starts_with('#')) {
      continue;
    }
    const std::size_t blank = text.find_first_of(" \t");
    labels[std::string(text.substr(0, blank))] =
        blank == std::string_view::npos ? std::string() : std::string(trimmed(text.substr(blank)));
  }
  return labels;
}

Outcome<std::vector<FileCopy>> parse_files(const Section& section, std::size_t first_word) {
  std::string stage;
  if (section.words.size() == first_word + 2 && section.words[first_word] == "from") {
    stage = section.words[first_word + 1];
  } else if (section.words.size() != first_word) {
    return at_line(section.line, "%" + section.name + " takes nothing, or 'from STAGE'");
  }
  std::vector<FileCopy> files;
  for (const Line& line : section.body) {
    const std::string_view text = trimmed(line.text);
    if (text.empty() || text.starts_with('#')) {
      continue;
    }
    const auto words = split_words(text);
    if (!words) {
      return at_line(line.number, words.error().what);
    }
    if (words->size() > 2) {
      return at_line(line.number, "a source and a destination are expected, not " +
                                      std::to_string(words->size()) +
                                      " words (quote names with blanks)");
    }
    files.push_back({words->at(0), words->size() == 2 ? words->at(1) : std::string(), stage});
  }
  return files;
}

Outcome<Program> parse_program(const Section& section) {
  Program program;
  program.text = section.text();
  // "%post -c /bin/bash": another interpreter.
  for (std::size_t i = 0; i < section.words.size(); ++i) {
    if (section.words[i] == "-c" && i + 1 < section.words.size()) {
      program.interpreter = section.words[++i];
    } else {
      return at_line(section.line,
                     "%" + section.name + " takes '-c PROGRAM', not '" + section.words[i] + "'");
    }
  }
  return program;
}

void append(std::optional<std::string>& to, const Section& section) {
  to = to.value_or(std::string()) + section.text();
}

Outcome<> take_app_section(Stage& stage, const Section& section) {
  if (section.words.empty() || section.words[0].find('/') != std::string::npos ||
      section.words[0] == ".." || section.words[0] == ".") {
    return at_line(section.line, "%" + section.name + " needs the name of an app");
  }
  App& app = stage.apps[section.words[0]];
  const std::array<std::pair<std::string_view, std::optional<std::string>*>, 6> texts = {
      {{"appinstall", &app.install},
       {"appenv", &app.environment},
       {"apprun", &app.run},
       {"appstart", &app.start},
       {"apptest", &app.test},
       {"apphelp", &app.help}}};
  for (const auto& [name, text] : texts) {
    if (section.name == name) {
      append(*text, section);
      return {};
    }
  }
  if (section.name == "applabels") {
    POSTERN_TRY_ASSIGN(const auto labels, parse_labels(section));
    app.labels.insert(labels.begin(), labels.end());
    return {};
  }
  if (section.name == "appfiles") {
    POSTERN_TRY_ASSIGN(const auto files, parse_files(section, 1));
    app.files.insert(app.files.end(), files.begin(), files.end());
    return {};
  }
  return at_line(section.line, "unknown section %" + section.name);
}

Outcome<> take_section(Stage& stage, const Section& section) {
  const std::array<std::pair<std::string_view, std::optional<std::string>*>, 5> texts = {
      {{"environment", &stage.environment},
       {"runscript", &stage.runscript},
       {"startscript", &stage.startscript},
       {"test", &stage.test},
       {"help", &stage.help}}};
  for (const auto& [name, text] : texts) {
    if (section.name == name) {
      append(*text, section);
      return {};
    }
  }
  if (section.name == "arguments") {
    return {};
  }
  if (section.name == "labels") {
    POSTERN_TRY_ASSIGN(const auto labels, parse_labels(section));
    stage.labels.insert(labels.begin(), labels.end());
    return {};
  }
  if (section.name == "files") {
    POSTERN_TRY_ASSIGN(const auto files, parse_files(section, 0));
    stage.files.insert(stage.files.end(), files.begin(), files.end());
    return {};
  }
  if (section.name == "post") {
    POSTERN_TRY_ASSIGN(Program program, parse_program(section));
    if (stage.post) {
      program.text = stage.post->text + program.text;
    }
    stage.post = std::move(program);
    return {};
  }
  if (section.name == "setup" || section.name == "pre") {
    Problem problem = at_line(
        section.line, "%" + section.name + " runs commands on this host, outside the container");
    problem.cure = "run them before the build, and copy their results with %files";
    return problem;
  }
  return section.name.starts_with("app")
             ? take_app_section(stage, section)
             : Outcome<>(at_line(section.line, "unknown section %" + section.name));
}

Outcome<> take_header(Stage& stage, const Line& line) {
  const std::string_view text = trimmed(line.text);
  if (text.empty() || text.starts_with('#')) {
    return {};
  }
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return at_line(line.number, "'" + std::string(text.substr(0, 60)) +
                                    "' is neither a header (Key: value) nor a section (%name)");
  }
  const std::string key = lower(trimmed(text.substr(0, colon)));
  stage.header[key] = trimmed(text.substr(colon + 1));
  if (key == "stage") {
    stage.name = stage.header[key];
  }
  return {};
}

}  // namespace

Outcome<std::vector<std::string>> split_words(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool inside = false;
  char quote = '\0';
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != '\0') {
      if (c == quote) {
        quote = '\0';
      } else if (c == '\\' && quote == '"' && i + 1 < line.size()) {
        word += line[++i];
      } else {
        word += c;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
      inside = true;
    } else if (c == '\\' && i + 1 < line.size()) {
      word += line[++i];
      inside = true;
    } else if (kBlanks.find(c) != std::string_view::npos) {
      if (inside) {
        words.push_back(std::exchange(word, {}));
        inside = false;
      }
    } else {
      word += c;
      inside = true;
    }
  }
  if (quote != '\0') {
    return Problem{.what = std::string("a quote (") + quote + ") is not closed"};
  }
  if (inside) {
    words.push_back(std::move(word));
  }
  return words;
}

Outcome<Definition> parse_definition(std::string_view text,
                                     const BuildArguments& arguments,
                                     std::vector<std::string>& unused) {
  if (text.size() > kMaxDefinition || text.find('\0') != std::string_view::npos) {
    return Problem{.what = "the definition file is too large or not text"};
  }
  std::set<std::string> used;
  Definition out;
  POSTERN_TRY_ASSIGN(out.text, fill_templates(text, arguments, used));
  for (const auto& [name, value] : arguments) {
    if (used.count(name) == 0) {
      unused.push_back(name);
    }
  }
  std::optional<Section> section;
  const auto finish_section = [&]() -> Outcome<> {
    if (!section) {
      return {};
    }
    const Section done = *std::exchange(section, std::nullopt);
    return take_section(out.stages.back(), done);
  };
  for (const Line& line : lines_of(out.text)) {
    if (is_section(line.text)) {
      if (out.stages.empty()) {
        return at_line(line.number,
                       "a section before the header; the file starts with 'Bootstrap: …'");
      }
      POSTERN_TRY(finish_section());
      const auto words = split_words(line.text.substr(1));
      if (!words) {
        return at_line(line.number, words.error().what);
      }
      section = Section{line.number, lower(words->front()), {words->begin() + 1, words->end()}, {}};
    } else if (is_bootstrap(line.text) &&
               (!section || line.text.front() == 'b' || line.text.front() == 'B')) {
      POSTERN_TRY(finish_section());
      out.stages.emplace_back();
      POSTERN_TRY(take_header(out.stages.back(), line));
    } else if (section) {
      section->body.push_back(line);
    } else if (!out.stages.empty()) {
      POSTERN_TRY(take_header(out.stages.back(), line));
    } else if (const std::string_view start = trimmed(line.text);
               !start.empty() && !start.starts_with('#')) {
      return at_line(line.number, "the file must start with 'Bootstrap: …'");
    }
  }
  if (out.stages.empty()) {
    return Problem{.what = "the definition file is empty",
                   .cure = "start it with 'Bootstrap: localimage' and 'From: IMAGE'"};
  }
  POSTERN_TRY(finish_section());
  return out;
}

}  // namespace postern::imagebuild
