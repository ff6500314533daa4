#compdef blkbak
# zsh completion for blkbak

_blkbak() {
    local line paths
    local -a lines offered
    lines=("${(@f)$(${words[1]} __complete -- "${(@)words[2,CURRENT-1]}" "$IPREFIX$PREFIX" 2>/dev/null)}")
    paths=${lines[1]%%$'\t'*}
    for line in "${(@)lines[2,-1]}"; do
        [[ -n $line ]] && offered+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    local found=1
    (( $#offered )) && _describe 'blkbak' offered && found=0
    case $paths in
    files|dirs)
        compset -P '--*='
        if [[ $paths == dirs ]]; then
            _files -/ && found=0
        else
            _files && found=0
        fi
        ;;
    esac
    return found
}

if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _blkbak "$@"
else
    compdef _blkbak blkbak
fi
