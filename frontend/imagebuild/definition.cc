#include "frontend/imagebuild/definition.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <set>
#include <utility>

#include "policy/text/split.h"

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
    std::string_view line = text::next_line(text);
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    lines.push_back({number, line});
  }
  return lines;
}

bool is_section(std::string_view line) {
  return line.size() > 1 && line[0] == '%' &&
         std::isalpha(static_cast<unsigned char>(line[1])) != 0;
}

// At the start of the line only: an indented one may be a script's text.
bool is_bootstrap(std::string_view line) {
  return lower(line.substr(0, 10)) == "bootstrap:";
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
    const std::string_view text = trimmed(line.text);
    const std::size_t equals = text.find('=');
    if (inside && !text.starts_with('#') && equals != std::string_view::npos) {
      // Quotes are part of the value, as Apptainer has it.
      defaults[std::string(trimmed(text.substr(0, equals)))] = trimmed(text.substr(equals + 1));
    }
  }
  return defaults;
}

bool is_argument_name(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
}

// "{{ NAME }}" somewhere in a text; blanks and line ends may stand around the name.
struct Template {
  std::size_t begin;
  std::size_t end;
  std::string name;
};

std::optional<Template> next_template(std::string_view text, std::size_t from) {
  while (true) {
    const std::size_t open = text.find("{{", from);
    const std::size_t close = open == std::string_view::npos ? open : text.find("}}", open + 2);
    if (close == std::string_view::npos) {
      return std::nullopt;
    }
    std::string_view name = text.substr(open + 2, close - open - 2);
    constexpr std::string_view kAround = " \t\r\n";
    name.remove_prefix(std::min(name.find_first_not_of(kAround), name.size()));
    name = name.substr(0, name.find_last_not_of(kAround) + 1);
    if (is_argument_name(name)) {
      return Template{open, close + 2, std::string(name)};
    }
    from = open + 1;  // shell code may hold "{{"
  }
}

// A # before this place on its line, other than that of "#!".
bool in_comment(std::string_view text, std::size_t place) {
  const std::size_t end = text.rfind('\n', place);
  const std::size_t start = end == std::string_view::npos ? 0 : end + 1;
  const std::string_view before = text.substr(start, place - start);
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (before[i] == '#' && (i + 1 == before.size() || before[i + 1] != '!')) {
      return true;
    }
  }
  return false;
}

// Fills the templates of one stage.
class Filler {
 public:
  Filler(const BuildArguments& arguments,
         std::map<std::string, std::string> defaults,
         std::set<std::string>& used)
      : arguments_(arguments), defaults_(std::move(defaults)), used_(used) {}

  // `line`: the number of the text's first line.
  Outcome<std::string> fill(std::string_view text, std::size_t line) {
    std::string out;
    std::size_t done = 0;
    while (const std::optional<Template> found = next_template(text, done)) {
      if (in_comment(text, found->begin)) {
        out += text.substr(done, found->end - done);
        done = found->end;
        continue;
      }
      const std::string* const value = value_of(found->name);
      if (value == nullptr) {
        const auto before = text.substr(0, found->begin);
        Problem problem =
            at_line(line + static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')),
                    "{{ " + found->name + " }} has no value");
        problem.cure = "give --build-arg " + found->name + "=VALUE, or a default in %arguments";
        return problem;
      }
      out += text.substr(done, found->begin - done);
      out += expanded(*value);
      done = found->end;
      if (out.size() > kMaxDefinition) {
        return Problem{.what = "the definition file is too large once its templates are filled"};
      }
    }
    return out += text.substr(done);
  }

 private:
  const std::string* value_of(const std::string& name) {
    if (const auto given = arguments_.find(name); given != arguments_.end()) {
      used_.insert(name);
      return &given->second;
    }
    const auto standard = defaults_.find(name);
    return standard == defaults_.end() ? nullptr : &standard->second;
  }

  // Templates in a value are filled once; what those values hold stays as it is.
  std::string expanded(std::string_view value) {
    std::string out;
    std::size_t done = 0;
    while (const std::optional<Template> found = next_template(value, done)) {
      const std::string* const inner = value_of(found->name);
      out += value.substr(done, (inner != nullptr ? found->begin : found->end) - done);
      out += inner != nullptr ? *inner : std::string();
      done = found->end;
    }
    return out += value.substr(done);
  }

  const BuildArguments& arguments_;
  std::map<std::string, std::string> defaults_;
  std::set<std::string>& used_;
};

// Where each stage begins: at the lines that start with "bootstrap:".
std::vector<std::string_view> stages_of(std::string_view text) {
  std::vector<std::string_view> stages;
  std::size_t start = 0;
  bool any = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1);
    const std::string_view line = text.substr(at, end + 1 - at);
    if (is_bootstrap(line) && std::exchange(any, true)) {
      stages.push_back(text.substr(start, at - start));
      start = at;
    }
    at = end + 1;
  }
  stages.push_back(text.substr(start));
  return stages;
}

Outcome<std::string> fill_templates(std::string_view text,
                                    const BuildArguments& arguments,
                                    std::set<std::string>& used) {
  std::string out;
  std::size_t line = 1;
  for (const std::string_view stage : stages_of(text)) {
    Filler filler(arguments, default_arguments(lines_of(stage)), used);
    POSTERN_TRY_ASSIGN(const std::string filled, filler.fill(stage, line));
    out += filled;
    line += static_cast<std::size_t>(std::count(stage.begin(), stage.end(), '\n'));
  }
  return out;
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

Program parse_program(const Section& section) {
  return {.words = section.words, .text = section.text()};
}

// "%runscript -e": options of the interpreter; "%test -c /bin/bash": another one. A first line
// "#!…" names one too.
std::string script_text(const Section& section) {
  std::string text = section.text();
  std::vector<std::string> words = section.words;
  std::string shebang;
  if (words.size() >= 2 && words[0] == "-c") {
    shebang = "#!" + words[1];
    words.erase(words.begin(), words.begin() + 2);
  }
  if (const std::size_t first = text.find_first_not_of(" \t\n");
      shebang.empty() && first != std::string::npos && text.compare(first, 2, "#!") == 0) {
    const std::size_t end = std::min(text.find('\n', first), text.size());
    shebang = text.substr(first, end - first);
    text.erase(0, std::min(end + 1, text.size()));
  }
  if (shebang.empty() && words.empty()) {
    return text;
  }
  shebang = shebang.empty() ? "#!/bin/sh" : shebang;
  for (const std::string& word : words) {
    shebang += " " + word;
  }
  return shebang + "\n" + text;
}

void append(std::optional<std::string>& to, const Section& section) {
  to = to.value_or(std::string()) + section.text();
}

// A section given twice: the texts one after the other, the words of the last.
void append(std::optional<Program>& to, const Section& section) {
  Program program = parse_program(section);
  program.text = (to ? to->text : std::string()) + program.text;
  to = std::move(program);
}

Outcome<> take_app_section(Stage& stage, const Section& section) {
  if (section.words.empty() || section.words[0].find('/') != std::string::npos ||
      section.words[0] == ".." || section.words[0] == ".") {
    return at_line(section.line, "%" + section.name + " needs the name of an app");
  }
  const auto [entry, added] = stage.apps.try_emplace(section.words[0]);
  App& app = entry->second;
  if (added) {
    app.order = stage.apps.size();
  }
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
    POSTERN_TRY_ASSIGN(auto labels, parse_labels(section));
    labels.merge(app.labels);
    app.labels = std::move(labels);
    return {};
  }
  if (section.name == "appfiles") {
    POSTERN_TRY_ASSIGN(const auto files, parse_files(section, 1));
    app.files.insert(app.files.end(), files.begin(), files.end());
    return {};
  }
  return at_line(section.line, "unknown section %" + section.name);
}

// Sections that become files of the image as they are, or as scripts.
bool take_text(Stage& stage, const Section& section) {
  if (section.name == "environment" || section.name == "help") {
    append(section.name == "help" ? stage.help : stage.environment, section);
    return true;
  }
  const std::array<std::pair<std::string_view, std::optional<std::string>*>, 3> scripts = {
      {{"runscript", &stage.runscript},
       {"startscript", &stage.startscript},
       {"test", &stage.test}}};
  for (const auto& [name, text] : scripts) {
    if (section.name == name) {
      *text = text->value_or(std::string()) + script_text(section);
      return true;
    }
  }
  return false;
}

Outcome<> take_section(Stage& stage, const Section& section) {
  if (take_text(stage, section) || section.name == "arguments") {
    return {};
  }
  const std::array<std::pair<std::string_view, std::optional<Program>*>, 3> programs = {
      {{"pre", &stage.pre}, {"setup", &stage.setup}, {"post", &stage.post}}};
  for (const auto& [name, program] : programs) {
    if (section.name == name) {
      append(*program, section);
      return {};
    }
  }
  if (section.name == "labels") {
    POSTERN_TRY_ASSIGN(auto labels, parse_labels(section));
    labels.merge(stage.labels);
    stage.labels = std::move(labels);
    return {};
  }
  if (section.name == "files") {
    POSTERN_TRY_ASSIGN(const auto files, parse_files(section, 0));
    stage.files.insert(stage.files.end(), files.begin(), files.end());
    return {};
  }
  return section.name.starts_with("app")
             ? take_app_section(stage, section)
             : Outcome<>(at_line(section.line, "unknown section %" + section.name));
}

bool is_header(std::string_view key) {
  static constexpr std::array<std::string_view, 23> kHeaders = {
      "bootstrap", "from",    "includecmd", "mirrorurl",   "updateurl", "osversion",
      "include",   "library", "registry",   "namespace",   "stage",     "product",
      "user",      "regcode", "productpgp", "registerurl", "modules",   "fingerprints",
      "confurl",   "setopt",  "target",     "frontend",    "filename"};
  constexpr std::string_view kOther = "otherurl";
  const bool other = key.starts_with(kOther) &&
                     key.substr(kOther.size()).find_first_not_of("0123456789") == key.npos;
  return other || key == "buildargs" ||
         std::find(kHeaders.begin(), kHeaders.end(), key) != kHeaders.end();
}

// Up to a # that stands behind a blank: a # inside a word is part of a URL.
std::string_view without_comment(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '#' && (i == 0 || kBlanks.find(text[i - 1]) != std::string_view::npos)) {
      return trimmed(text.substr(0, i));
    }
  }
  return trimmed(text);
}

// `value`: behind the colon, continuation lines joined.
Outcome<> take_header(Stage& stage, std::size_t line, std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return at_line(line, "'" + std::string(text.substr(0, 60)) +
                             "' is neither a header (Key: value) nor a section (%name)");
  }
  const std::string key = lower(trimmed(text.substr(0, colon)));
  if (!is_header(key)) {
    Problem problem = at_line(line, "unknown header '" + key.substr(0, 60) + "'");
    problem.cure =
        "headers are Bootstrap, From, Stage, Include, MirrorURL, OSVersion and others; "
        "sections start with %";
    return problem;
  }
  stage.header[key] = without_comment(text.substr(colon + 1));
  if (key == "stage") {
    stage.name = stage.header[key];
  }
  return {};
}

// The lines before a stage's first section. A line that ends in \ goes on with the next; one that
// ends in \n\ does so behind a line end.
class Header {
 public:
  Outcome<> take(Stage& stage, const Line& line) {
    std::string_view text = trimmed(line.text);
    if (pending_.empty()) {
      if (text.empty() || text.starts_with('#')) {
        return {};
      }
      number_ = line.number;
    }
    const bool goes_on = text.ends_with('\\');
    if (goes_on) {
      text.remove_suffix(1);
      const bool new_line = text.ends_with("\\n");
      pending_ += text.substr(0, text.size() - (new_line ? 2 : 0));
      pending_ += new_line ? "\n" : "";
      return {};
    }
    const std::string whole = std::exchange(pending_, {}) + std::string(text);
    return take_header(stage, number_, whole);
  }

  // At the start of a section, and at the end of the file.
  Outcome<> finish(Stage& stage) {
    const std::string whole = std::exchange(pending_, {});
    return whole.empty() ? Outcome<>() : take_header(stage, number_, whole);
  }

 private:
  std::string pending_;
  std::size_t number_ = 0;
};

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

std::string_view dockerfile_instruction(std::string_view text) {
  static constexpr std::array<std::string_view, 17> kInstructions = {
      "FROM",    "ARG",        "RUN",         "COPY",    "ADD",       "ENV",
      "CMD",     "ENTRYPOINT", "LABEL",       "USER",    "EXPOSE",    "VOLUME",
      "WORKDIR", "SHELL",      "HEALTHCHECK", "ONBUILD", "STOPSIGNAL"};
  for (const Line& line : lines_of(text.substr(0, 4096))) {
    const std::string_view start = trimmed(line.text);
    if (start.empty() || start.starts_with('#')) {
      continue;
    }
    const std::string_view word = start.substr(0, start.find_first_of(kBlanks));
    const auto* const found = std::find(kInstructions.begin(), kInstructions.end(), word);
    return found != kInstructions.end() && word.size() < start.size() ? *found : std::string_view{};
  }
  return {};
}

namespace {

// Takes the lines of a definition file one by one.
class Parser {
 public:
  explicit Parser(Definition& out) : out_(out) {}

  Outcome<> take(const Line& line) {
    if (is_section(line.text)) {
      return start_section(line);
    }
    if (is_bootstrap(line.text)) {
      POSTERN_TRY(finish());
      out_.stages.emplace_back();
      return header_.take(out_.stages.back(), line);
    }
    if (section_) {
      section_->body.push_back(line);
      return {};
    }
    if (!out_.stages.empty()) {
      return header_.take(out_.stages.back(), line);
    }
    const std::string_view start = trimmed(line.text);
    return start.empty() || start.starts_with('#')
               ? Outcome<>()
               : Outcome<>(at_line(line.number, "'" + std::string(start.substr(0, 60)) +
                                                    "' stands where the file must start with "
                                                    "'Bootstrap: …'"));
  }

  Outcome<> finish() {
    if (!out_.stages.empty()) {
      POSTERN_TRY(header_.finish(out_.stages.back()));
    }
    if (!section_) {
      return {};
    }
    const Section done = *std::exchange(section_, std::nullopt);
    return take_section(out_.stages.back(), done);
  }

 private:
  Outcome<> start_section(const Line& line) {
    if (out_.stages.empty()) {
      return at_line(line.number,
                     "a section before the header; the file starts with 'Bootstrap: …'");
    }
    POSTERN_TRY(finish());
    const auto words = split_words(without_comment(line.text.substr(1)));
    if (!words) {
      return at_line(line.number, words.error().what);
    }
    section_ = Section{line.number, lower(words->front()), {words->begin() + 1, words->end()}, {}};
    return {};
  }

  Definition& out_;
  Header header_;
  std::optional<Section> section_;
};

}  // namespace

Outcome<Definition> parse_definition(std::string_view text,
                                     const BuildArguments& arguments,
                                     std::vector<std::string>& unused) {
  if (text.size() > kMaxDefinition) {
    return Problem{.what = "the definition file is larger than " +
                           std::to_string(kMaxDefinition >> 20) + " MiB"};
  }
  if (text.starts_with("\xef\xbb\xbf")) {
    return Problem{.what = "the definition file starts with a byte order mark",
                   .cure = "save it as UTF-8 without one (in vim: :set nobomb)"};
  }
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    const auto before = text.substr(0, zero);
    Problem problem =
        at_line(1 + static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')),
                "a zero byte: a definition file is text");
    problem.cure = "remove it, or save the file as UTF-8 without a byte order mark";
    return problem;
  }
  if (const std::string_view word = dockerfile_instruction(text); !word.empty()) {
    return Problem{.what = "the file starts with " + std::string(word) +
                           ": it is a Dockerfile, not a definition file",
                   .cure =
                       "build it with podman or docker, save the image (podman save -o FILE "
                       "NAME), and build from docker-archive:FILE"};
  }
  std::set<std::string> used;
  Definition out;
  POSTERN_TRY_ASSIGN(out.text, fill_templates(text, arguments, used));
  for (const auto& [name, value] : arguments) {
    if (used.count(name) == 0) {
      unused.push_back(name);
    }
  }
  Parser parser(out);
  for (const Line& line : lines_of(out.text)) {
    POSTERN_TRY(parser.take(line));
  }
  if (out.stages.empty()) {
    return Problem{.what = "the definition file is empty",
                   .cure = "start it with 'Bootstrap: localimage' and 'From: IMAGE'"};
  }
  POSTERN_TRY(parser.finish());
  return out;
}

}  // namespace postern::imagebuild
