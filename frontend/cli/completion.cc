#include "frontend/cli/completion.h"

#include <string_view>

#include "frontend/cli/action_options.h"
#include "frontend/cli/command.h"

namespace postern::cli {
namespace {

bool is_offered(const option::Option& option, option::CommandSet commands) {
  return (option.commands & commands) != 0 && !option.help.empty() && option.refusal.empty();
}

std::string option_words(std::span<const option::Option> table, option::CommandSet commands) {
  std::string words;
  for (const option::Option& option : table) {
    if (is_offered(option, commands)) {
      words += (words.empty() ? "--" : " --") + std::string(option.name);
    }
  }
  return words;
}

std::string command_words() {
  std::string words;
  for (const Command& command : commands()) {
    if (!command.summary.empty()) {
      words += (words.empty() ? "" : " ") + std::string(command.name);
    }
  }
  return words;
}

// Single quotes for a shell; the texts of the tables hold none but these.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out + "'";
}

// Commands of other programs, and commands below commands, are asked for their options: their
// --help names them. `command`: words for the shell.
std::string ask_for_options(std::string_view command) {
  return "postern " + std::string(command) +
         " --help 2>/dev/null | grep -oE -e '--[a-z][a-z0-9-]+' | sort -u";
}

// After an option that takes a value, and for everything that is no option, the shell's own file
// names are what most people want.
std::string bash() {
  std::string text =
      "# bash completion for postern, made by `postern completion bash`\n"
      "_postern() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} command= second= at=1 known= below=\n"
      "  while [ $at -lt $COMP_CWORD ]; do\n"
      "    case $command:${COMP_WORDS[at]} in\n"
      "      :-c|:--config) at=$((at + 1)) ;;\n"
      "      *:-*) ;;\n"
      "      :*) command=${COMP_WORDS[at]} ;;\n"
      "      *) second=${COMP_WORDS[at]}; break ;;\n"
      "    esac\n"
      "    at=$((at + 1))\n"
      "  done\n"
      "  case $command in\n"
      "    '') known=\"" +
      option_words(global_options(), ~option::CommandSet{0}) + "\"; below=\"" + command_words() +
      "\" ;;\n"
      "    help) below=\"" +
      command_words() + "\" ;;\n";
  for (const Command& command : commands()) {
    const std::string names =
        std::string(command.name) + (command.alias.empty() ? "" : "|" + std::string(command.alias));
    if (command.options != 0) {
      text += "    " + names + ") known=\"" + option_words(action_options(), command.options) +
              "\" ;;\n";
    } else if (!command.subcommands.empty()) {
      text += "    " + names + ") [ -n \"$second\" ] || below=\"" +
              std::string(command.subcommands) + "\"\n      known=$(" +
              ask_for_options("$command $second") + ") ;;\n";
    }
  }
  return text + "    *) known=$(" + ask_for_options("$command") +
         ") ;;\n"
         "  esac\n"
         "  case $word in\n"
         "    -*) COMPREPLY=($(compgen -W \"$known\" -- \"$word\")) ;;\n"
         "    *) COMPREPLY=($(compgen -W \"$below\" -- \"$word\")) ;;\n"
         "  esac\n"
         "}\n"
         "complete -o bashdefault -o default -F _postern postern\n";
}

std::string zsh_options(std::span<const option::Option> table, option::CommandSet commands) {
  std::string text;
  for (const option::Option& option : table) {
    if (!is_offered(option, commands)) {
      continue;
    }
    std::string help;
    for (const char c : option.help) {
      // Brackets, colons and backslashes have a meaning inside a specification (zshcompsys(1)).
      help +=
          c == '[' || c == ']' || c == ':' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
    }
    const std::string value = option.kind == option::Kind::kFlag ? "" : ": :_files";
    const std::string repeat =
        option.kind == option::Kind::kList || option.kind == option::Kind::kArray ? "*" : "";
    text += " \\\n        " +
            quoted(repeat + "--" + std::string(option.name) +
                   (option.kind == option::Kind::kFlag ? "" : "=") + "[" + help + "]" + value);
    if (option.letter != 0) {
      text += " \\\n        " +
              quoted(repeat + "-" + std::string(1, option.letter) + "[" + help + "]" + value);
    }
  }
  return text;
}

std::string zsh() {
  std::string text =
      "#compdef postern\n"
      "# zsh completion for postern, made by `postern completion zsh`\n"
      "_postern() {\n"
      "  local state line curcontext=$curcontext\n"
      "  _arguments -C -S -A '-*'" +
      zsh_options(global_options(), ~option::CommandSet{0}) +
      " \\\n        '1:command:->command' '*::argument:->argument'\n"
      "  case $state in\n"
      "    command)\n"
      "      local -a known=(\n";
  for (const Command& command : commands()) {
    if (!command.summary.empty()) {
      text += "        " + quoted(std::string(command.name) + ":" + std::string(command.summary)) +
              "\n";
    }
  }
  text += "      )\n      _describe command known ;;\n    argument)\n      case $words[1] in\n";
  for (const Command& command : commands()) {
    if (command.options != 0) {
      text += "      " + std::string(command.name) + ") _arguments -S -A '-*'" +
              zsh_options(action_options(), command.options) +
              " \\\n        '1:image:_files' '*::command:_normal' ;;\n";
    } else if (!command.subcommands.empty()) {
      text += "      " + std::string(command.name) + ") if (( CURRENT == 2 )); then compadd " +
              std::string(command.subcommands) + "; elif [[ $PREFIX = -* ]]; then compadd -- $(" +
              ask_for_options("$words[1] $words[2]") + "); else _files; fi ;;\n";
    }
  }
  return text +
         "      *)\n"
         "        if [[ $PREFIX = -* ]]; then compadd -- $(" +
         ask_for_options("$words[1]") +
         "); else _files; fi ;;\n"
         "      esac ;;\n  esac\n}\n_postern \"$@\"\n";
}

// Which command the line is about, and its options if a program must be asked for them.
constexpr std::string_view kFishFunctions =
    "function __postern_words\n"
    "    set -l value 0\n"
    "    set -l found 0\n"
    "    for word in (commandline -opc)[2..-1]\n"
    "        if test $value = 1\n"
    "            set value 0\n"
    "            continue\n"
    "        end\n"
    "        switch $word\n"
    "            case -c --config\n"
    "                test $found = 0; and set value 1\n"
    "            case '-*'\n"
    "            case '*'\n"
    "                set found 1\n"
    "                echo $word\n"
    "        end\n"
    "    end\n"
    "end\n"
    "function __postern_is\n"
    "    set -l words (__postern_words)\n"
    "    test (count $words) -ge $argv[1]; and test $words[1] = $argv[2]\n"
    "end\n"
    "function __postern_options\n"
    "    set -l words (__postern_words)\n"
    "    postern $words[1..$argv[1]] --help 2>/dev/null | string match -ra -- "
    "'--[a-z][a-z0-9-]+' | sort -u\n"
    "end\n";

std::string fish_line(std::string_view condition, const std::string& rest) {
  return "complete -c postern -n " + quoted(condition) + " " + rest + "\n";
}

std::string fish_option(const option::Option& option, std::string_view condition) {
  std::string text = "-l " + std::string(option.name);
  if (option.letter != 0) {
    text += " -s " + std::string(1, option.letter);
  }
  if (option.kind != option::Kind::kFlag) {
    text += " -r";
  }
  return fish_line(condition, text + " -d " + quoted(option.help));
}

std::string fish() {
  constexpr std::string_view kNoCommand = "test (count (__postern_words)) = 0";
  std::string text = "# fish completion for postern, made by `postern completion fish`\n";
  text += kFishFunctions;
  for (const option::Option& option : global_options()) {
    if (is_offered(option, ~option::CommandSet{0})) {
      text += fish_option(option, kNoCommand);
    }
  }
  for (const Command& command : commands()) {
    const std::string name(command.name);
    const std::string is = "__postern_is 1 " + name;
    const std::string is_below = "__postern_is 2 " + name;
    if (!command.summary.empty()) {
      text += fish_line(kNoCommand, "-f -a " + name + " -d " + quoted(command.summary));
    }
    if (!command.subcommands.empty()) {
      text += fish_line(is + "; and not " + is_below, "-f -a " + quoted(command.subcommands));
      text += fish_line(is_below, "-a '(__postern_options 2)'");
    } else if (command.options == 0 && command.program != nullptr) {
      text += fish_line(is, "-a '(__postern_options 1)'");
    }
    for (const option::Option& option : action_options()) {
      if (is_offered(option, command.options)) {
        text += fish_option(option, is);
      }
    }
  }
  return text;
}

}  // namespace

std::string completion_script(std::string_view shell) {
  if (shell == "bash") {
    return bash();
  }
  if (shell == "zsh") {
    return zsh();
  }
  return shell == "fish" ? fish() : std::string{};
}

}  // namespace postern::cli
