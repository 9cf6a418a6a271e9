from .figures import kind_map as kind_map
from .figures import layer_line as layer_line
from .figures import score_map as score_map
from .labelmap import label_map as label_map
from .notebook import headmap_html as headmap_html
from .palette import Theme as Theme
from .palette import hues as hues
from .report import write_report as write_report
