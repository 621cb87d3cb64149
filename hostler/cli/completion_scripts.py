"""The scripts that make a shell ask `hostler complete` when somebody presses Tab.

They call the command as it was typed, so that a checkout's own `scripts/hostler` completes, too.
"""

from hostler.cli.failures import OK, usage_failure
from hostler.cli.render import print_json

BASH = r"""
_hostler_quoted() {  # a word as it is written behind what is there of it: in quotes that are open, or without
    local word=$2
    case $1 in
        \'*) printf %s "${word//\'/\'\\\'\'}" ;;
        \"*) word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//\$/\\\$}; printf %s "${word//\`/\\\`}" ;;
        *) printf %q "$word" ;;
    esac
}
_hostler_complete() {
    local found word about current=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    found=$("${COMP_WORDS[0]/#\~/$HOME}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return 0
    while IFS=$'\t' read -r word about; do
        case $word in
            '') ;;
            :files) compopt -o default ;;
            :programs) mapfile -t COMPREPLY < <(compgen -c -- "$current") ;;
            *) COMPREPLY+=("$(_hostler_quoted "$current" "$word")") ;;
        esac
    done <<< "$found"
}
complete -F _hostler_complete hostler
"""

ZSH = r"""
#compdef hostler
_hostler() {
    local found line
    local -a offers
    found=$("${(e)words[1]/#\~/$HOME}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null) || return 1
    for line in "${(@f)found}"; do
        case $line in
            '') ;;
            :files*) _files; return ;;
            :programs*) _command_names -e; return ;;
            *) offers+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    (( $#offers )) && _describe -V 'hostler' offers
}
if [[ ${funcstack[1]} == _hostler ]]; then
    _hostler "$@"
else
    compdef _hostler hostler
fi
"""

FISH = r"""
function __hostler_complete
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    for line in ($typed[1] complete -- $typed[2..-1] "$current" 2>/dev/null)
        switch $line
            case ':files*'
                __fish_complete_path "$current"
            case ':programs*'
                __fish_complete_command
            case '*'
                echo $line
        end
    end
end
complete -c hostler -f -a '(__hostler_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def print_script(shell: str, *, as_json: bool) -> int:
    """Print the script for a shell.

    Raises:
        Failure: there is none for it.
    """
    script = SCRIPTS.get(shell)
    if script is None:
        raise usage_failure(f"there is no completion for {shell!r}", hint="the shells are bash, zsh and fish")
    print_json({"shell": shell, "script": script.lstrip()}) if as_json else print(script.strip())
    return OK
